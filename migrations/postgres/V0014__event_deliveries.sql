-- Events on their way to a webhook: how far each writer's row of numbers has come, and the one
-- delivery that is under way.
--
-- By writer and number, not by transaction (as revocations.xid): a writer gives its next number when
-- the transaction with the one before is over, so a number that can be seen has all lower ones before
-- it. A position in that row skips nothing, and a transaction that stays open somewhere holds nothing up.

CREATE TABLE event_webhook (
    -- There is one.
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    -- Events from here on are delivered.
    started_at timestamptz NOT NULL,
    -- The delivery under way, the same for all attempts; null = none.
    delivery uuid,
    -- Attempts at it.
    attempts bigint NOT NULL DEFAULT 0,
    -- Nobody tries before: the end of a gateway's lease, or of the pause after a failure.
    due_at timestamptz NOT NULL,
    -- When the last delivery was taken.
    delivered_at timestamptz,
    -- Why the last attempt failed; null = it did not.
    last_error text
);

-- How far each writer's events have come. One that is not here has none delivered.
CREATE TABLE event_deliveries (
    -- See event_writers.
    writer uuid PRIMARY KEY,
    -- All up to this number were delivered, or removed by the retention before they could be.
    delivered_to bigint NOT NULL,
    -- The last number of the delivery under way; null = it has none of this writer's.
    under_way_to bigint
);
