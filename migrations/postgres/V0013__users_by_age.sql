-- Accounts page by page, the newest first.

CREATE INDEX users_by_age ON users (created_at DESC, id DESC);
