-- Accounts and sessions: invitations, a change of address, how a session was proved; failed logins.
-- What SQLite keeps differently from PostgreSQL is said in V0001.

-- Kind and cost of a stored hash that new hashes do not have, such as bcrypt/12; null = made here at
-- the present cost, or none. While any is left, refused logins take as long as the slowest of them.
ALTER TABLE users ADD COLUMN password_class TEXT;
-- When an administrator invited the owner of the address.
ALTER TABLE users ADD COLUMN invited_at INTEGER;
-- The address that the user wants instead, not yet proved, and its folded form. Not unique: who
-- proves it first has it.
ALTER TABLE users ADD COLUMN new_email TEXT;
ALTER TABLE users ADD COLUMN new_email_key TEXT;
-- When that was asked for.
ALTER TABLE users ADD COLUMN new_email_at INTEGER;
-- Which of the two addresses has agreed, or need not: current or new; null = neither yet.
ALTER TABLE users ADD COLUMN new_email_agreed TEXT CHECK (new_email_agreed IN ('current', 'new'));
CREATE INDEX users_by_password_class ON users (password_class) WHERE password_class IS NOT NULL;

-- JSON array of proofs given, newest first: [{"method": "otp", "timestamp": 1767225600}, ...], in
-- Unix seconds. Empty: the password, at created_at.
ALTER TABLE sessions ADD COLUMN methods TEXT NOT NULL DEFAULT '[]';
-- Network of `address` (IPv4: /24, IPv6: /48), as text: where a known device comes from.
ALTER TABLE sessions ADD COLUMN network TEXT;
CREATE INDEX sessions_by_network ON sessions (user_id, network, created_at)
    WHERE network IS NOT NULL;

-- Failed logins in a row, for each address that was tried and each lane. A login from a network
-- where the account logged in before has a lane of its own, so that strangers cannot slow it down.
CREATE TABLE login_guards (
    -- SHA-256 of the folded address, known or not.
    account BLOB NOT NULL CHECK (length(account) = 32),
    -- A network in which the account is known, or `*` for all others.
    lane TEXT NOT NULL,
    -- Failures since the last success in this lane.
    failures INTEGER NOT NULL,
    -- The last of them.
    failed_at INTEGER NOT NULL,
    -- No try before this time.
    blocked_until INTEGER NOT NULL,
    PRIMARY KEY (account, lane)
) STRICT, WITHOUT ROWID;
CREATE INDEX login_guards_by_age ON login_guards (failed_at);
