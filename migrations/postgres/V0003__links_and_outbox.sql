-- One-time tokens for links and codes, and what is still to be sent.

-- One row per link that may still be used. A user has one of each purpose: the newest.
CREATE TABLE one_time_tokens (
    -- SHA-256 of the 256 random bits in the link.
    digest bytea PRIMARY KEY CHECK (length(digest) = 32),
    -- Whose it is.
    user_id text COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- signup, invite, recovery, magiclink, email_change_current, email_change_new,
    -- reauthentication, or pkce (the code of a finished link, to be traded with its verifier).
    purpose text NOT NULL,
    -- Folded form of the address it was sent to: only that address is proved by it.
    email_key text COLLATE "C" NOT NULL,
    -- HMAC-SHA-256 of the six digits in the same mail; null = none were sent, or too many wrong
    -- ones were tried.
    code bytea CHECK (length(code) = 32),
    -- Wrong codes so far; the code goes with the fifth.
    attempts smallint NOT NULL DEFAULT 0,
    -- Where the browser goes afterwards; was allowed when it was asked for.
    redirect_to text,
    -- RFC 7636: challenge of the client that asked; null = it asked without.
    code_challenge text,
    code_challenge_method text CHECK (code_challenge_method IN ('s256', 'plain')),
    -- signup: the password of that very sign-up, which takes effect when its own link is used.
    password_hash text,
    -- The metadata of that very request for an account, which takes effect likewise.
    user_metadata jsonb CHECK (jsonb_typeof(user_metadata) = 'object'),
    -- reauthentication: the only session that may use it.
    session_id uuid,
    -- When it was made to be sent.
    created_at timestamptz NOT NULL,
    -- Of no use from this time on.
    expires_at timestamptz NOT NULL,
    UNIQUE (user_id, purpose),
    CHECK ((code_challenge IS NULL) = (code_challenge_method IS NULL))
);
CREATE INDEX one_time_tokens_by_email ON one_time_tokens (email_key);
CREATE INDEX one_time_tokens_by_expiry ON one_time_tokens (expires_at);

-- What is still to be sent; no row holds a token. A row goes when it was sent.
CREATE TABLE outbox (
    -- UUIDv7; also the id by which receivers know repetitions.
    id uuid PRIMARY KEY,
    -- mail.
    kind text NOT NULL,
    -- What to send: model::Letter.
    payload jsonb NOT NULL,
    -- When it was put here.
    created_at timestamptz NOT NULL,
    -- Not before this time: raised by each attempt, and while somebody is at it.
    due_at timestamptz NOT NULL,
    -- Attempts so far.
    attempts integer NOT NULL DEFAULT 0,
    -- Why the last one failed, cleaned; never a receiver's whole answer.
    last_error text,
    -- Given up; null = still tried.
    failed_at timestamptz
);
CREATE INDEX outbox_by_due ON outbox (kind, due_at) WHERE failed_at IS NULL;
CREATE INDEX outbox_by_failure ON outbox (failed_at) WHERE failed_at IS NOT NULL;
