-- Events on their way to a webhook: how far each writer's row of numbers has come, and the one
-- delivery that is under way.
--
-- By writer and number, as on PostgreSQL.

CREATE TABLE event_webhook (
    -- There is one.
    id INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    -- Events from here on are delivered.
    started_at INTEGER NOT NULL,
    -- The delivery under way, the same for all attempts; null = none.
    delivery BLOB,
    -- Attempts at it.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Nobody tries before: the end of a gateway's lease, or of the pause after a failure.
    due_at INTEGER NOT NULL,
    -- When the last delivery was taken.
    delivered_at INTEGER,
    -- Why the last attempt failed; null = it did not.
    last_error TEXT
) STRICT;

-- How far each writer's events have come. One that is not here has none delivered.
CREATE TABLE event_deliveries (
    -- See event_writers.
    writer BLOB NOT NULL PRIMARY KEY,
    -- All up to this number were delivered, or removed by the retention before they could be.
    delivered_to INTEGER NOT NULL,
    -- The last number of the delivery under way; null = it has none of this writer's.
    under_way_to INTEGER
) STRICT;
