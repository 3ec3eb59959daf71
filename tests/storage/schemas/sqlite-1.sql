CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version INTEGER NOT NULL,
        snapshot_version INTEGER NOT NULL,
        generation_high INTEGER NOT NULL,
        token_high INTEGER NOT NULL,
        cluster_id TEXT NOT NULL,
        adopted_by TEXT NOT NULL DEFAULT '',
        settings BLOB NOT NULL DEFAULT x''
    );
INSERT INTO rio_cluster (single_row, schema_version, snapshot_version, generation_high, token_high, cluster_id) VALUES (1, 1, 0, 0, 0, lower(hex(randomblob(16))));
CREATE TABLE rio_member (
        generation INTEGER PRIMARY KEY,
        address TEXT NOT NULL,
        status INTEGER NOT NULL,
        lease_counter INTEGER NOT NULL,
        metadata BLOB NOT NULL,
        votes BLOB NOT NULL,
        manifest BLOB NOT NULL,
        manifest_digest BLOB NOT NULL
    );
CREATE TABLE rio_placement (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        generation INTEGER NOT NULL,
        token INTEGER NOT NULL,
        PRIMARY KEY (type_name, id)
    ) WITHOUT ROWID;
CREATE INDEX rio_placement_generation ON rio_placement (generation);
CREATE TRIGGER rio_token_inserted AFTER INSERT ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END;
CREATE TRIGGER rio_token_updated AFTER UPDATE OF token ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END;
CREATE TABLE rio_object (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        token INTEGER NOT NULL,
        version INTEGER NOT NULL,
        has_more INTEGER NOT NULL,
        state_name TEXT NOT NULL,
        schema INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (type_name, id)
    );
CREATE TABLE rio_state (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        state_name TEXT NOT NULL,
        schema INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    );
