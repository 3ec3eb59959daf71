
    CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version BIGINT NOT NULL,
        snapshot_version BIGINT NOT NULL,
        generation_high BIGINT NOT NULL
    );
    INSERT INTO rio_cluster VALUES (1, 1, 0, 0);
    CREATE TABLE rio_member (
        generation BIGINT PRIMARY KEY,
        address TEXT NOT NULL,
        status BIGINT NOT NULL,
        lease_counter BIGINT NOT NULL,
        metadata BYTEA NOT NULL,
        votes BYTEA NOT NULL
    ) WITH (fillfactor = 50);
    CREATE SEQUENCE rio_token;
    CREATE TABLE rio_placement (
        type_name BYTEA NOT NULL, id BYTEA NOT NULL, generation BIGINT, token BIGINT NOT NULL, PRIMARY KEY (type_name, id)
    );
    CREATE INDEX rio_placement_generation ON rio_placement (generation);
    CREATE TABLE rio_state (
        type_name BYTEA NOT NULL, id BYTEA NOT NULL, state_name BYTEA NOT NULL,
        version BIGINT NOT NULL, token BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    ) WITH (fillfactor = 70);
    CREATE FUNCTION rio_tell_members() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('rio_members', NEW.snapshot_version || ' ' || TG_TABLE_SCHEMA);
        RETURN NULL;
    END $$;
    CREATE TRIGGER rio_tell_members AFTER UPDATE OF snapshot_version ON rio_cluster
        FOR EACH ROW EXECUTE FUNCTION rio_tell_members();
