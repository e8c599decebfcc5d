-- Accounts, sessions, keys and events. The same tables as for PostgreSQL; where they differ, the
-- comment says so. Times are whole microseconds since 1970-01-01T00:00:00Z, UUIDs 16 bytes.

-- One row per account.
CREATE TABLE users (
    -- The subject of its tokens: [A-Za-z0-9._-]{1,128}. Never changes.
    id TEXT NOT NULL PRIMARY KEY,
    -- The e-mail address as its owner wrote it.
    email TEXT NOT NULL,
    -- The form by which addresses are compared; folded by the program, never by SQL.
    email_key TEXT NOT NULL UNIQUE,
    -- When the address was proved to be the user's; null = not yet.
    email_confirmed_at INTEGER,
    -- PHC string or a foreign format; null = no login by password.
    password_hash TEXT,
    -- Sorted JSON array of role names; written by administrators only.
    roles TEXT NOT NULL,
    -- JSON object: what administrators noted; the user can read it.
    app_metadata TEXT NOT NULL,
    -- JSON object: what the user noted.
    user_metadata TEXT NOT NULL,
    -- The last login; never moves backwards.
    last_sign_in_at INTEGER,
    -- No login before this time; null = never disabled.
    disabled_until INTEGER,
    -- When the account was made.
    created_at INTEGER NOT NULL,
    -- When any field changed last, logins excepted.
    updated_at INTEGER NOT NULL
) STRICT;

-- One row per login. Kept for 30 days after its end.
CREATE TABLE sessions (
    -- Named by every access token of the session.
    id BLOB NOT NULL PRIMARY KEY,
    -- Whose it is.
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- When the password was checked.
    created_at INTEGER NOT NULL,
    -- Last refresh or use, to five minutes; never moves backwards.
    last_seen_at INTEGER NOT NULL,
    -- No refresh from this time on, however often it was refreshed.
    expires_at INTEGER NOT NULL,
    -- The latest exp of its access tokens: how long an end must be remembered.
    access_expires_at INTEGER NOT NULL,
    -- Where the login came from, as text.
    address TEXT,
    -- What the client called itself, cleaned.
    user_agent TEXT,
    -- When it ended before its time; null = it did not.
    ended_at INTEGER,
    -- Why it ended before its time, one word.
    ended_reason TEXT,
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL))
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Every refresh token ever given out in a living session, used ones too: that is how a stolen one
-- is noticed. A row holds nothing from which a token can be made.
CREATE TABLE refresh_tokens (
    -- SHA-256 of the token.
    digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    -- The session that it prolongs.
    session_id BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- The token that was traded for this one; null = the first, from the login. Unique: a token
    -- has one successor, whatever races.
    parent BLOB UNIQUE,
    -- The successor, encrypted under a key that only this token yields, to repeat an answer that
    -- was lost on the way; null until used.
    sealed_successor BLOB,
    -- When it was given out.
    created_at INTEGER NOT NULL,
    -- When it was traded; null = not yet.
    used_at INTEGER,
    CHECK ((used_at IS NULL) = (sealed_successor IS NULL))
) STRICT;
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_age ON refresh_tokens (created_at);

-- Sessions whose access tokens must be refused although they have not expired: what every gateway
-- keeps in memory. Survives its session and user.
CREATE TABLE revocations (
    -- SQLite has one writer at a time and AUTOINCREMENT never gives a number twice, so rows become
    -- visible in this order: a reader asks for what is greater than the last it saw.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The ended session.
    session_id BLOB NOT NULL UNIQUE,
    -- When the last of its access tokens has expired by itself.
    until INTEGER NOT NULL
) STRICT;
CREATE INDEX revocations_by_until ON revocations (until);

-- Key pairs that sign or signed access tokens.
CREATE TABLE signing_keys (
    -- RFC 7638 thumbprint of the public key; `kid` of the tokens.
    kid TEXT NOT NULL PRIMARY KEY,
    -- JWS algorithm, the only one the key is used with.
    algorithm TEXT NOT NULL,
    -- PKCS#8 DER.
    private_key BLOB NOT NULL,
    -- When it was made or imported.
    created_at INTEGER NOT NULL,
    -- The newest key whose time has come signs; a future time lets verifiers learn it first.
    active_from INTEGER NOT NULL,
    -- Not accepted from this time on; null = no end in sight.
    retire_at INTEGER
) STRICT;

-- One row per process that ever wrote an event. Its number is raised in the transaction that
-- writes the event, so that a gap in a writer's numbers is a lost event.
CREATE TABLE event_writers (
    -- Made at start of the process.
    id BLOB NOT NULL PRIMARY KEY,
    -- The time of its first event.
    first_event_at INTEGER NOT NULL,
    -- The number of its last committed event; 1, 2, 3, ...
    last_number INTEGER NOT NULL
) STRICT;

-- What happened to accounts, or was tried. Append-only; no reference to users, so that events
-- outlive them.
CREATE TABLE auth_events (
    -- Order of commits, see revocations.seq.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- When.
    at INTEGER NOT NULL,
    -- UUIDv7.
    id BLOB NOT NULL,
    -- The process that wrote it, see event_writers.
    writer BLOB NOT NULL,
    -- Its place in that writer's gapless row.
    number INTEGER NOT NULL,
    -- What, one word such as login_failed.
    kind TEXT NOT NULL,
    -- success or failure.
    outcome TEXT NOT NULL,
    -- Why, one word.
    reason TEXT,
    -- Who did it, when it is not the user: cli, or another user's id.
    actor TEXT,
    -- Whose account, when known.
    user_id TEXT,
    -- The e-mail address that was tried, cleaned.
    email TEXT,
    -- Which session.
    session_id BLOB,
    -- From where, as text.
    address TEXT,
    -- What the client called itself, cleaned.
    user_agent TEXT,
    -- X-Request-Id of the request, cleaned.
    request_id TEXT,
    UNIQUE (at, id)
) STRICT;
CREATE INDEX auth_events_by_user ON auth_events (user_id, at, id) WHERE user_id IS NOT NULL;
CREATE INDEX auth_events_by_email ON auth_events (lower(email), at, id) WHERE email IS NOT NULL;
CREATE INDEX auth_events_by_kind ON auth_events (kind, at, id);
