-- API keys: how programs act as a user.

CREATE TABLE api_keys (
    -- UUIDv4.
    id uuid PRIMARY KEY,
    -- As whom the key acts.
    user_id text COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- What its owner calls it.
    name text NOT NULL,
    -- The key's first characters, by which people, logs and OAuth (client_id) know it.
    prefix text COLLATE "C" NOT NULL UNIQUE,
    -- SHA-256 of the whole key, which has 256 random bits.
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- What it may be used for: a sorted array of words.
    scopes jsonb NOT NULL CHECK (jsonb_typeof(scopes) = 'array'),
    -- When it was made.
    created_at timestamptz NOT NULL,
    -- Who made it: cli, or a user's id.
    created_by text NOT NULL,
    -- Not accepted from this time on; null = no end in sight.
    expires_at timestamptz,
    -- When it was ended before its time; null = never.
    revoked_at timestamptz,
    -- Last use, to five minutes; null = none yet.
    last_used_at timestamptz,
    -- The key in whose place it came. No reference: that one may be deleted.
    replaces uuid
);
CREATE INDEX api_keys_by_user ON api_keys (user_id, created_at DESC, id);

-- Which keys changed. Every gateway holds all keys in memory and follows here; a key that is no
-- longer in api_keys is gone. Triggers write it, so that whoever changes a user, by whatever way,
-- need not think of keys.
CREATE TABLE api_key_changes (
    -- Which one; more than one row for the same key says nothing more.
    key_id uuid NOT NULL,
    -- When, for cleaning up; the time of the database server.
    at timestamptz NOT NULL DEFAULT now(),
    -- See revocations.xid.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX api_key_changes_by_xid ON api_key_changes (xid);
CREATE INDEX api_key_changes_by_age ON api_key_changes (at);

CREATE FUNCTION note_api_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_changes (key_id) VALUES (coalesce(NEW.id, OLD.id));
    RETURN NULL;
END
$$;
CREATE TRIGGER api_keys_noted
    AFTER INSERT OR DELETE OR UPDATE OF expires_at, revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_api_key();

-- A key speaks with the address and the roles of its user, and not at all while that is disabled.
CREATE FUNCTION note_api_keys_of_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_changes (key_id) SELECT id FROM api_keys WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER users_noted
    AFTER UPDATE OF email, email_confirmed_at, roles, disabled_until ON users
    FOR EACH ROW
    WHEN ((OLD.email, OLD.email_confirmed_at, OLD.roles, OLD.disabled_until)
        IS DISTINCT FROM (NEW.email, NEW.email_confirmed_at, NEW.roles, NEW.disabled_until))
    EXECUTE FUNCTION note_api_keys_of_user();
