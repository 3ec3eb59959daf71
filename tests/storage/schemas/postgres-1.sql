
    CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version BIGINT NOT NULL,
        snapshot_version BIGINT NOT NULL,
        generation_high BIGINT NOT NULL,
        cluster_id TEXT NOT NULL,
        adopted_by TEXT NOT NULL DEFAULT '',
        settings BYTEA NOT NULL DEFAULT ''
    );
    INSERT INTO rio_cluster VALUES (1, 1, 0, 0, replace(gen_random_uuid()::text, '-', ''));
    CREATE TABLE rio_member (
        generation BIGINT PRIMARY KEY,
        address TEXT NOT NULL,
        status BIGINT NOT NULL,
        lease_counter BIGINT NOT NULL,
        metadata BYTEA NOT NULL,
        votes BYTEA NOT NULL,
        manifest BYTEA NOT NULL,
        manifest_digest BYTEA NOT NULL
    ) WITH (fillfactor = 50);
    CREATE SEQUENCE rio_token;
    CREATE TABLE rio_placement (
        type_name BYTEA NOT NULL, id BYTEA NOT NULL, generation BIGINT NOT NULL, token BIGINT NOT NULL, PRIMARY KEY (type_name, id)
    );
    CREATE INDEX rio_placement_generation ON rio_placement (generation);
    CREATE FUNCTION rio_raise_token() RETURNS boolean LANGUAGE plpgsql AS $$
        DECLARE
            now_us BIGINT := extract(epoch FROM clock_timestamp()) * 1000000;
        BEGIN
            IF (SELECT last_value FROM rio_token) < now_us - 100000 THEN
                PERFORM pg_advisory_xact_lock(hashtext('rio_token'));
                IF (SELECT last_value FROM rio_token) < now_us - 100000 THEN
                    PERFORM setval('rio_token', now_us);
                END IF;
            END IF;
            RETURN TRUE;
        END
    $$;
    CREATE TABLE rio_object (
        type_name BYTEA NOT NULL, id BYTEA NOT NULL, token BIGINT NOT NULL, version BIGINT NOT NULL, has_more BOOLEAN NOT NULL,
        state_name BYTEA NOT NULL, schema BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id)
    ) WITH (fillfactor = 70);
    CREATE TABLE rio_state (
        type_name BYTEA NOT NULL, id BYTEA NOT NULL, state_name BYTEA NOT NULL, schema BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    ) WITH (fillfactor = 70);
    CREATE FUNCTION rio_tell_members() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('rio_members', NEW.snapshot_version || ' ' || TG_TABLE_SCHEMA);
        RETURN NULL;
    END $$;
    CREATE TRIGGER rio_tell_members AFTER UPDATE OF snapshot_version ON rio_cluster
        FOR EACH ROW EXECUTE FUNCTION rio_tell_members();
