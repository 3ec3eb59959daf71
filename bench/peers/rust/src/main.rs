//! rio-rs on the work of `make bench-peers`: one end, in a process that `rio_rs.py` starts.
//!
//!     rio-rs-peer serve memory|sqlite                prints its address, and serves until it is killed
//!     rio-rs-peer drive memory|sqlite WORK ADDRESS   makes a lap for each line "IN_FLIGHT SECONDS"
//!
//! WORK is "pings", "activations" or, with SQLite, "saves": `worker.py` says what each is.
//! After each lap the client writes how many calls it has made, as a 64-bit integer, and the seconds
//! that each took, as doubles: all in the machine's own byte order.

use std::io::{stdin, stdout, BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rio_rs::client::Client;
use rio_rs::cluster::storage::local::LocalStorage;
use rio_rs::cluster::storage::sqlite::SqliteMembershipStorage;
use rio_rs::cluster::storage::{Member, MembershipStorage};
use rio_rs::object_placement::local::LocalObjectPlacement;
use rio_rs::object_placement::sqlite::SqliteObjectPlacement;
use rio_rs::object_placement::ObjectPlacement;
use rio_rs::prelude::*;
use rio_rs::state::sqlite::SqliteState;
use rio_rs::state::StateSaver;
use serde::{Deserialize, Serialize};

const DATABASE: &str = "sqlite://rio-rs.db?mode=rwc";
const OBJECT_NAME: &str = "ada";
const PING_ID: &str = "0123456789abcdef";
const SAVING: u64 = 1000;

#[derive(TypeName, Message, Deserialize, Serialize)]
struct Ping {
    ping_id: String,
}

#[derive(TypeName, Message, Deserialize, Serialize)]
struct Save {
    ping_id: String,
}

#[derive(TypeName, Message, Deserialize, Serialize)]
struct Pong {
    ping_id: String,
}

#[derive(TypeName, WithId, Default)]
struct Player {
    id: String,
    pings: u64,
}

#[async_trait]
impl Handler<Ping> for Player {
    type Returns = Pong;
    type Error = NoopError;

    async fn handle(&mut self, message: Ping, _: Arc<AppData>) -> Result<Pong, NoopError> {
        self.pings += 1;
        Ok(Pong { ping_id: message.ping_id })
    }
}

#[async_trait]
impl Handler<Save> for Player {
    type Returns = Pong;
    type Error = NoopError;

    async fn handle(&mut self, message: Save, app: Arc<AppData>) -> Result<Pong, NoopError> {
        self.pings += 1;
        let states = app.get::<SqliteState>();
        states.save("Player", &self.id, "Pings", &self.pings).await.expect("a state that is saved");
        Ok(Pong { ping_id: message.ping_id })
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", "memory"] => {
            serve(LocalStorage::default(), LocalObjectPlacement::default(), AppData::new()).await
        }
        ["serve", "sqlite"] => {
            let pool = SqliteObjectPlacement::pool().connect(DATABASE).await.expect("a database");
            let states = SqliteState::new(SqliteState::pool().connect(DATABASE).await.expect("a database"));
            states.migrate().await;
            let app = AppData::new();
            app.set(states);
            serve(members_on_sqlite().await, SqliteObjectPlacement::new(pool), app).await
        }
        ["drive", "memory", work, address] => drive(only_member(address).await, work).await,
        ["drive", "sqlite", work, _] => drive(members_on_sqlite().await, work).await,
        _ => panic!("serve memory|sqlite, or drive memory|sqlite WORK ADDRESS"),
    }
}

async fn members_on_sqlite() -> SqliteMembershipStorage {
    let pool = SqliteMembershipStorage::pool().connect(DATABASE).await.expect("a database");
    SqliteMembershipStorage::new(pool)
}

/// What a client knows that shares no memory with the server.
async fn only_member(address: &str) -> LocalStorage {
    let (ip, port) = address.rsplit_once(':').expect("an address");
    let mut member = Member::new(ip.to_string(), port.to_string());
    member.set_active(true);
    let members = LocalStorage::default();
    members.push(member).await.expect("a member");
    members
}

async fn serve<M, P>(members: M, placement: P, app: AppData)
where
    M: MembershipStorage + 'static,
    P: ObjectPlacement + 'static,
{
    let mut registry = Registry::new();
    registry.add_type::<Player>();
    registry.add_handler::<Player, Ping>();
    registry.add_handler::<Player, Save>();
    let cluster = PeerToPeerClusterProvider::builder().members_storage(members).build();
    let mut server = Server::builder()
        .address("127.0.0.1:0".to_string())
        .registry(registry)
        .app_data(app)
        .cluster_provider(cluster)
        .object_placement_provider(placement)
        .build();
    server.prepare().await.expect("the tables");
    let listener = server.bind().await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    server.run(listener).await.expect("a server that runs");
}

/// One client for each call in flight: a client has one connection, and one call at a time on it.
async fn drive<M>(members: M, work: &str)
where
    M: MembershipStorage + Clone + 'static,
{
    let mut clients: Vec<Client<M>> = Vec::new();
    let numbers = Arc::new(AtomicU64::new(0));
    if work == "saves" {
        // An object that comes to life while another one waits for its save may stop a thread.
        let mut client = Client::new(members.clone());
        for number in 0..SAVING {
            ping(&mut client, &number.to_string()).await;
        }
    }
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        let (in_flight, seconds) = line.split_once(' ').expect("IN_FLIGHT SECONDS");
        let in_flight: usize = in_flight.parse().expect("a number");
        let until = Instant::now() + Duration::from_secs_f64(seconds.parse().expect("seconds"));
        while clients.len() < in_flight {
            clients.push(Client::new(members.clone()));
        }
        let asking = clients.drain(..in_flight).map(|client| {
            tokio::spawn(ask(client, work.to_string(), numbers.clone(), until))
        });
        let mut latencies = Vec::new();
        let mut returned = Vec::new();
        for asker in asking.collect::<Vec<_>>() {
            let (client, seconds) = asker.await.expect("answers");
            returned.push(client);
            latencies.extend(seconds);
        }
        clients.extend(returned);
        report(&latencies);
    }
}

async fn ask<M>(
    mut client: Client<M>,
    work: String,
    numbers: Arc<AtomicU64>,
    until: Instant,
) -> (Client<M>, Vec<f64>)
where
    M: MembershipStorage + 'static,
{
    let mut latencies = Vec::new();
    let mut before = Instant::now();
    while before < until {
        match work.as_str() {
            "pings" => ping(&mut client, OBJECT_NAME).await,
            "activations" => ping(&mut client, &next(&numbers).to_string()).await,
            "saves" => save(&mut client, &(next(&numbers) % SAVING).to_string()).await,
            _ => panic!("there is no such work: {work}"),
        }
        let after = Instant::now();
        latencies.push((after - before).as_secs_f64());
        before = after;
    }
    (client, latencies)
}

fn next(numbers: &AtomicU64) -> u64 {
    numbers.fetch_add(1, Ordering::Relaxed)
}

async fn ping<M: MembershipStorage + 'static>(client: &mut Client<M>, id: &str) {
    let ping = Ping { ping_id: PING_ID.to_string() };
    let pong: Pong = client.send::<_, NoopError>("Player", id, &ping).await.expect("a pong");
    assert_eq!(pong.ping_id, PING_ID);
}

async fn save<M: MembershipStorage + 'static>(client: &mut Client<M>, id: &str) {
    let save = Save { ping_id: PING_ID.to_string() };
    let pong: Pong = client.send::<_, NoopError>("Player", id, &save).await.expect("a pong");
    assert_eq!(pong.ping_id, PING_ID);
}

fn report(latencies: &[f64]) {
    let mut bytes = (latencies.len() as u64).to_ne_bytes().to_vec();
    bytes.extend(latencies.iter().flat_map(|seconds| seconds.to_ne_bytes()));
    let mut output = stdout().lock();
    output.write_all(&bytes).expect("a reader");
    output.flush().expect("a reader");
}
