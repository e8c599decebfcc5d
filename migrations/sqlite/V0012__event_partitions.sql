-- What is known of events that went. On PostgreSQL events lie in one table for each month from here on;
-- SQLite keeps one table.

-- A writer's row of numbers, read from end to end: to find gaps, and to hand events on.
CREATE INDEX auth_events_by_number ON auth_events (writer, number);

-- What events.retention has removed of each writer's row of numbers: with it, and only with it, a
-- number that is not there is no gap.
CREATE TABLE event_removals (
    -- See event_writers.
    writer BLOB NOT NULL PRIMARY KEY,
    -- How many of its events were removed.
    removed INTEGER NOT NULL,
    -- The highest number among them. Lower ones may still be there: numbers follow the commits, and
    -- removal follows the times.
    up_to INTEGER NOT NULL
) STRICT;
