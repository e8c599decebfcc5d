-- Second factors.

ALTER TABLE sessions
    -- The factor that was shown in the session, which makes its tokens say aal2; null = none. No
    -- reference: when a factor is removed, its sessions change or end.
    ADD COLUMN factor_id uuid;

CREATE TABLE factors (
    id uuid PRIMARY KEY,
    -- Whose it is.
    user_id text COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- totp.
    kind text NOT NULL,
    -- Chosen by the user; empty = none.
    friendly_name text NOT NULL,
    -- When it was proved for the first time; null = not yet, and then it protects nothing.
    verified_at timestamptz,
    -- totp: the 160 bits that it shares with the user's device; sealed when secrets.key is set.
    secret bytea NOT NULL,
    -- totp: the newest time step whose code was used; it and older ones are refused (RFC 6238
    -- section 5.2).
    last_step bigint NOT NULL DEFAULT 0,
    -- Wrong codes since the last right one.
    wrong_codes bigint NOT NULL DEFAULT 0,
    -- No code is looked at before this time; null = no pause.
    paused_until timestamptz,
    -- When a challenge was made last.
    last_challenged_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX factors_by_user ON factors (user_id);
CREATE UNIQUE INDEX factors_by_name ON factors (user_id, friendly_name) WHERE friendly_name <> '';
CREATE INDEX factors_by_age ON factors (created_at) WHERE verified_at IS NULL;

-- One row for each time that a session is to show a factor.
CREATE TABLE factor_challenges (
    id uuid PRIMARY KEY,
    factor_id uuid NOT NULL REFERENCES factors (id) ON DELETE CASCADE,
    -- The session that asked: no other may answer.
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- Wrong codes so far; the row goes with the fifth.
    attempts bigint NOT NULL DEFAULT 0,
    -- Of no use from this time on.
    expires_at timestamptz NOT NULL
);
CREATE INDEX factor_challenges_by_factor ON factor_challenges (factor_id);
CREATE INDEX factor_challenges_by_session ON factor_challenges (session_id);
CREATE INDEX factor_challenges_by_expiry ON factor_challenges (expires_at);

-- What stands in for a factor that is lost. A row goes when its code is used.
CREATE TABLE recovery_codes (
    user_id text COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256 of the code, which has 80 random bits.
    digest bytea NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (user_id, digest)
);
