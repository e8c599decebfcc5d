-- Accounts and sessions: invitations, a change of address, and how a session was proved.
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
