-- Deletion of accounts: those whose id stays taken, and what is still to be forgotten.

ALTER TABLE users
    -- When the account was deleted but for its id; null = it was not. Nothing of its owner is left
    -- in the row, and email is a text that is no address.
    ADD COLUMN deleted_at timestamptz;

-- Accounts whose traces in the events are still to be replaced by a pseudonym. A row stays for an
-- hour, for events that are written late; after it nothing links the two.
CREATE TABLE erasures (
    -- What stands in the account's place.
    pseudonym text COLLATE "C" PRIMARY KEY,
    -- The account that is gone.
    user_id text COLLATE "C" NOT NULL,
    -- Its address: events of refused logins may have no more than that.
    email text NOT NULL,
    -- When it was deleted.
    requested_at timestamptz NOT NULL
);
CREATE INDEX auth_events_by_actor ON auth_events (actor) WHERE actor IS NOT NULL;
