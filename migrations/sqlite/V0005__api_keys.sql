-- API keys: how programs act as a user.
-- What SQLite keeps differently from PostgreSQL is said in V0001.

CREATE TABLE api_keys (
    -- UUIDv4.
    id BLOB NOT NULL PRIMARY KEY,
    -- As whom the key acts.
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- What its owner calls it.
    name TEXT NOT NULL,
    -- The key's first characters, by which people, logs and OAuth (client_id) know it.
    prefix TEXT NOT NULL UNIQUE,
    -- SHA-256 of the whole key, which has 256 random bits.
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- What it may be used for: a sorted array of words.
    scopes TEXT NOT NULL,
    -- When it was made.
    created_at INTEGER NOT NULL,
    -- Who made it: cli, or a user's id.
    created_by TEXT NOT NULL,
    -- Not accepted from this time on; null = no end in sight.
    expires_at INTEGER,
    -- When it was ended before its time; null = never.
    revoked_at INTEGER,
    -- Last use, to five minutes; null = none yet.
    last_used_at INTEGER,
    -- The key in whose place it came. No reference: that one may be deleted.
    replaces BLOB
) STRICT;
CREATE INDEX api_keys_by_user ON api_keys (user_id, created_at DESC, id);

-- Which keys changed. Every gateway holds all keys in memory and follows here; a key that is no
-- longer in api_keys is gone. Triggers write it, so that whoever changes a user, by whatever way,
-- need not think of keys.
CREATE TABLE api_key_changes (
    -- Order of commits, see revocations.seq.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Which one; more than one row for the same key says nothing more.
    key_id BLOB NOT NULL,
    -- When, for cleaning up; the time of the machine.
    at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000)
) STRICT;
CREATE INDEX api_key_changes_by_age ON api_key_changes (at);

CREATE TRIGGER api_keys_made AFTER INSERT ON api_keys
BEGIN
    INSERT INTO api_key_changes (key_id) VALUES (NEW.id);
END;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN
    INSERT INTO api_key_changes (key_id) VALUES (OLD.id);
END;
CREATE TRIGGER api_keys_changed AFTER UPDATE OF expires_at, revoked_at ON api_keys
BEGIN
    INSERT INTO api_key_changes (key_id) VALUES (NEW.id);
END;

-- A key speaks with the address and the roles of its user, and not at all while that is disabled.
CREATE TRIGGER users_noted
    AFTER UPDATE OF email, email_confirmed_at, roles, disabled_until ON users
    WHEN (OLD.email, OLD.email_confirmed_at, OLD.roles, OLD.disabled_until)
        IS NOT (NEW.email, NEW.email_confirmed_at, NEW.roles, NEW.disabled_until)
BEGIN
    INSERT INTO api_key_changes (key_id) SELECT id FROM api_keys WHERE user_id = NEW.id;
END;
