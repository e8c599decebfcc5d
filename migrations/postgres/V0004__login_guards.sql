-- Failed logins: how long the next one has to wait.

CREATE TABLE login_guards (
    -- SHA-256 of the folded address that was tried, whether or not anybody has it.
    account bytea NOT NULL CHECK (length(account) = 32),
    -- A network in which the account is known (as in sessions.network), or `*` for all others.
    lane text COLLATE "C" NOT NULL,
    -- Failures since the last success in this lane, or since a quiet day.
    failures integer NOT NULL,
    -- The last of them.
    failed_at timestamptz NOT NULL,
    -- No try before this time.
    blocked_until timestamptz NOT NULL,
    PRIMARY KEY (account, lane)
);
CREATE INDEX login_guards_by_age ON login_guards (failed_at);
