-- Accounts, sessions, keys and events. PostgreSQL 13 or later (xid8).
--
-- Ids and keys are compared byte for byte (COLLATE "C"), so that PostgreSQL, SQLite and the program
-- agree on equality and order whatever the locale of the database is. Times have microseconds.

-- One row per account.
CREATE TABLE users (
    -- The subject of its tokens: [A-Za-z0-9._-]{1,128}. Never changes.
    id text COLLATE "C" PRIMARY KEY,
    -- The e-mail address as its owner wrote it.
    email text NOT NULL,
    -- The form by which addresses are compared; folded by the program, never by SQL.
    email_key text COLLATE "C" NOT NULL UNIQUE,
    -- When the address was proved to be the user's; null = not yet.
    email_confirmed_at timestamptz,
    -- PHC string or a foreign format; null = no login by password.
    password_hash text,
    -- Sorted array of role names; written by administrators only.
    roles jsonb NOT NULL CHECK (jsonb_typeof(roles) = 'array'),
    -- What administrators noted; the user can read it.
    app_metadata jsonb NOT NULL CHECK (jsonb_typeof(app_metadata) = 'object'),
    -- What the user noted.
    user_metadata jsonb NOT NULL CHECK (jsonb_typeof(user_metadata) = 'object'),
    -- The last login; never moves backwards.
    last_sign_in_at timestamptz,
    -- No login before this time; null = never disabled.
    disabled_until timestamptz,
    -- When the account was made.
    created_at timestamptz NOT NULL,
    -- When any field changed last, logins excepted.
    updated_at timestamptz NOT NULL
);

-- One row per login. Kept for 30 days after its end.
CREATE TABLE sessions (
    -- Named by every access token of the session.
    id uuid PRIMARY KEY,
    -- Whose it is.
    user_id text COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- When the password was checked.
    created_at timestamptz NOT NULL,
    -- Last refresh or use, to five minutes; never moves backwards.
    last_seen_at timestamptz NOT NULL,
    -- No refresh from this time on, however often it was refreshed.
    expires_at timestamptz NOT NULL,
    -- The latest exp of its access tokens: how long an end must be remembered.
    access_expires_at timestamptz NOT NULL,
    -- Where the login came from.
    address inet,
    -- What the client called itself, cleaned.
    user_agent text,
    -- When it ended before its time; null = it did not.
    ended_at timestamptz,
    -- Why it ended before its time, one word.
    ended_reason text,
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL))
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Every refresh token ever given out in a living session, used ones too: that is how a stolen one
-- is noticed. A row holds nothing from which a token can be made.
CREATE TABLE refresh_tokens (
    -- SHA-256 of the token.
    digest bytea PRIMARY KEY CHECK (length(digest) = 32),
    -- The session that it prolongs.
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- The token that was traded for this one; null = the first, from the login. Unique: a token
    -- has one successor, whatever races.
    parent bytea UNIQUE,
    -- The successor, encrypted under a key that only this token yields, to repeat an answer that
    -- was lost on the way; null until used.
    sealed_successor bytea,
    -- When it was given out.
    created_at timestamptz NOT NULL,
    -- When it was traded; null = not yet.
    used_at timestamptz,
    CHECK ((used_at IS NULL) = (sealed_successor IS NULL))
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_age ON refresh_tokens USING brin (created_at);

-- Sessions whose access tokens must be refused although they have not expired: what every gateway
-- keeps in memory. Survives its session and user.
CREATE TABLE revocations (
    -- The ended session.
    session_id uuid PRIMARY KEY,
    -- When the last of its access tokens has expired by itself.
    until timestamptz NOT NULL,
    -- The transaction that wrote the row. Rows become visible in commit order, not in the order of
    -- any counter; a reader that asks for xid >= the oldest transaction that was still running at
    -- its last look sees each row at least once, and a late commit too.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX revocations_by_xid ON revocations (xid);
CREATE INDEX revocations_by_until ON revocations (until);

-- Key pairs that sign or signed access tokens.
CREATE TABLE signing_keys (
    -- RFC 7638 thumbprint of the public key; `kid` of the tokens.
    kid text COLLATE "C" PRIMARY KEY,
    -- JWS algorithm, the only one the key is used with.
    algorithm text NOT NULL,
    -- PKCS#8 DER.
    private_key bytea NOT NULL,
    -- When it was made or imported.
    created_at timestamptz NOT NULL,
    -- The newest key whose time has come signs; a future time lets verifiers learn it first.
    active_from timestamptz NOT NULL,
    -- Not accepted from this time on; null = no end in sight.
    retire_at timestamptz
);

-- One row per process that ever wrote an event. Its number is raised in the transaction that
-- writes the event, so that a gap in a writer's numbers is a lost event.
CREATE TABLE event_writers (
    -- Made at start of the process.
    id uuid PRIMARY KEY,
    -- The time of its first event.
    first_event_at timestamptz NOT NULL,
    -- The number of its last committed event; 1, 2, 3, ...
    last_number bigint NOT NULL
) WITH (fillfactor = 50);

-- What happened to accounts, or was tried. Append-only; no reference to users, so that events
-- outlive them. The primary key begins with the time, so that the table can be partitioned by it.
CREATE TABLE auth_events (
    -- When.
    at timestamptz NOT NULL,
    -- UUIDv7.
    id uuid NOT NULL,
    -- The process that wrote it, see event_writers.
    writer uuid NOT NULL,
    -- Its place in that writer's gapless row.
    number bigint NOT NULL,
    -- The transaction that wrote the row, see revocations.xid.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- What, one word such as login_failed.
    kind text NOT NULL,
    -- success or failure.
    outcome text NOT NULL,
    -- Why, one word.
    reason text,
    -- Who did it, when it is not the user: cli, or another user's id.
    actor text,
    -- Whose account, when known.
    user_id text COLLATE "C",
    -- The e-mail address that was tried, cleaned.
    email text,
    -- Which session.
    session_id uuid,
    -- From where.
    address inet,
    -- What the client called itself, cleaned.
    user_agent text,
    -- X-Request-Id of the request, cleaned.
    request_id text,
    PRIMARY KEY (at, id)
);
CREATE INDEX auth_events_by_user ON auth_events (user_id, at, id) WHERE user_id IS NOT NULL;
CREATE INDEX auth_events_by_email ON auth_events (lower(email), at, id) WHERE email IS NOT NULL;
CREATE INDEX auth_events_by_kind ON auth_events (kind, at, id);
CREATE INDEX auth_events_by_xid ON auth_events (xid);
