-- The store on SQLite: what other programs are promised of it, and what the daemon needs besides.
-- Constraint names are sentences, because SQLite prints them to whoever broke one. Afterwards training_corrections
-- changes by ADD COLUMN only, so that writers never meet a missing table or a lost trigger.

CREATE TABLE training_corrections (
  id                  TEXT NOT NULL PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))
                      CONSTRAINT "id is text of 1 to 64 characters" CHECK (typeof(id) = 'text' AND length(id) BETWEEN 1 AND 64),
  persona_id          TEXT NOT NULL CONSTRAINT "persona_id: 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot" CHECK (typeof(persona_id) = 'text' AND length(persona_id) BETWEEN 1 AND 128
                      AND persona_id NOT GLOB '*[^A-Za-z0-9._-]*' AND persona_id NOT GLOB '.*'),
  trait_type          TEXT NOT NULL CONSTRAINT "trait_type: 1 to 128 of a-z 0-9 . _ -, no leading dot" CHECK (typeof(trait_type) = 'text' AND length(trait_type) BETWEEN 1 AND 128
                      AND trait_type NOT GLOB '*[^a-z0-9._-]*' AND trait_type NOT GLOB '.*'),
  original_context    TEXT CONSTRAINT "original_context is text" CHECK (original_context IS NULL OR typeof(original_context) = 'text'),
  original_response   TEXT NOT NULL CONSTRAINT "original_response is text" CHECK (typeof(original_response) = 'text'),
  expected_response   TEXT NOT NULL CONSTRAINT "expected_response is text and not blank" CHECK (typeof(expected_response) = 'text' AND length(trim(expected_response)) > 0),
  correction_reason   TEXT NOT NULL DEFAULT '' CONSTRAINT "correction_reason is text" CHECK (typeof(correction_reason) = 'text'),
  severity            REAL NOT NULL DEFAULT 0.5 CONSTRAINT "severity is a number from 0 to 1" CHECK (typeof(severity) IN ('real', 'integer') AND severity BETWEEN 0 AND 1),
  kind                TEXT NOT NULL DEFAULT 'correction' CONSTRAINT "kind is correction or affirmation" CHECK (kind IN ('correction', 'affirmation')),
  source              TEXT NOT NULL DEFAULT 'explicit' CONSTRAINT "source is explicit, implicit, review or import" CHECK (source IN ('explicit', 'implicit', 'review', 'import')),
  is_sensitive        INTEGER CONSTRAINT "is_sensitive is 0, 1 or null" CHECK (is_sensitive IS NULL OR is_sensitive IN (0, 1)),
  room_id             TEXT CONSTRAINT "room_id is text" CHECK (room_id IS NULL OR typeof(room_id) = 'text'),
  message_id          TEXT CONSTRAINT "message_id is text" CHECK (message_id IS NULL OR typeof(message_id) = 'text'),
  corrected_by        TEXT CONSTRAINT "corrected_by is text" CHECK (corrected_by IS NULL OR typeof(corrected_by) = 'text'),
  corrected_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
                      CONSTRAINT "corrected_at is an ISO 8601 time" CHECK (typeof(corrected_at) = 'text' AND julianday(corrected_at) IS NOT NULL),
  received_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
                      CONSTRAINT "received_at is an ISO 8601 time" CHECK (typeof(received_at) = 'text' AND julianday(received_at) IS NOT NULL),
  is_used_in_training INTEGER NOT NULL DEFAULT 0 CONSTRAINT "is_used_in_training is 0 or 1" CHECK (is_used_in_training IN (0, 1)),
  quarantined_reason  TEXT CONSTRAINT "quarantined_reason is text" CHECK (quarantined_reason IS NULL OR typeof(quarantined_reason) = 'text')
);
CREATE INDEX training_corrections_pending ON training_corrections (persona_id, trait_type, received_at)
  WHERE is_used_in_training = 0 AND quarantined_reason IS NULL;

-- what a trait learnt, for rehearsal
CREATE INDEX training_corrections_learnt ON training_corrections (persona_id, trait_type, received_at)
  WHERE is_used_in_training = 1;

CREATE TABLE training_runs (
  id          TEXT NOT NULL PRIMARY KEY,
  persona_id  TEXT NOT NULL,
  trait_type  TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('planned', 'training', 'evaluating', 'promoting',
                                             'promoted', 'satisfied', 'rejected', 'failed', 'cancelled')),
  reason      TEXT,
  attempt     INTEGER NOT NULL DEFAULT 1,
  fence       INTEGER NOT NULL DEFAULT 0,
  created_at  TEXT NOT NULL,
  finished_at TEXT,
  planned_because   TEXT NOT NULL DEFAULT '',
  version           INTEGER NOT NULL DEFAULT 0,   -- of the layer: reserved here, never issued twice
  failures          INTEGER NOT NULL DEFAULT 0,
  not_before        TEXT,
  settings_hash     TEXT NOT NULL DEFAULT '',
  compared_revision INTEGER,                      -- the genome revision that the gate compared against
  layer_path        TEXT,
  evidence          TEXT                          -- JSON: the verdict, its probes and metrics
);
CREATE UNIQUE INDEX training_runs_versions ON training_runs (persona_id, trait_type, version);
CREATE UNIQUE INDEX training_runs_live ON training_runs (persona_id, trait_type)
  WHERE state IN ('planned', 'training', 'evaluating', 'promoting');
CREATE INDEX training_runs_finished ON training_runs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE run_corrections (
  run_id        TEXT NOT NULL REFERENCES training_runs (id),
  correction_id TEXT NOT NULL REFERENCES training_corrections (id),
  role          TEXT NOT NULL CHECK (role IN ('train', 'affirm')),
  outcome       TEXT NOT NULL CHECK (outcome IN ('claimed', 'used', 'returned')),
  PRIMARY KEY (run_id, correction_id)
);
-- invariants 2 and 3, by the database itself: one live claim or one use, never both, never two
CREATE UNIQUE INDEX run_corrections_once ON run_corrections (correction_id) WHERE outcome IN ('claimed', 'used');
CREATE INDEX run_corrections_by_correction ON run_corrections (correction_id);

CREATE TRIGGER corrections_born_unused BEFORE INSERT ON training_corrections
WHEN NEW.is_used_in_training <> 0 BEGIN SELECT RAISE(ABORT, 'is_used_in_training is the daemon''s to set'); END;

CREATE TRIGGER corrections_are_kept BEFORE DELETE ON training_corrections
WHEN coalesce(OLD.quarantined_reason, '') NOT LIKE 'forget:%'
BEGIN SELECT RAISE(ABORT, 'corrections are kept; use: persona forget'); END;

CREATE TRIGGER corrections_do_not_change BEFORE UPDATE OF id, persona_id, trait_type, original_context, original_response,
  expected_response, correction_reason, severity, kind, source, room_id, message_id, corrected_by, corrected_at, received_at
ON training_corrections
BEGIN SELECT RAISE(ABORT, 'a correction does not change; insert a later one, which supersedes it'); END;

CREATE TRIGGER corrections_used_by_a_run BEFORE UPDATE OF is_used_in_training ON training_corrections
WHEN NEW.is_used_in_training <> OLD.is_used_in_training AND (NEW.is_used_in_training = 0 OR NOT EXISTS (
  SELECT 1 FROM run_corrections rc JOIN training_runs r ON r.id = rc.run_id
  WHERE rc.correction_id = OLD.id AND rc.outcome = 'used' AND r.state IN ('promoted', 'satisfied')))
BEGIN SELECT RAISE(ABORT, 'is_used_in_training is the daemon''s to set'); END;

CREATE TABLE genome_layers (
  id               TEXT NOT NULL PRIMARY KEY,
  persona_id       TEXT NOT NULL,
  trait_type       TEXT NOT NULL,
  version          INTEGER NOT NULL,
  state            TEXT NOT NULL CHECK (state IN ('active', 'retired', 'rolled-back')),
  path             TEXT NOT NULL,
  content_hash     TEXT NOT NULL,
  base_fingerprint TEXT NOT NULL,
  parent_id        TEXT REFERENCES genome_layers (id),
  run_id           TEXT REFERENCES training_runs (id),
  created_at       TEXT NOT NULL,
  UNIQUE (persona_id, trait_type, version)
);
CREATE TABLE genomes (
  persona_id TEXT NOT NULL PRIMARY KEY,
  revision   INTEGER NOT NULL
);
CREATE TABLE genome_traits (
  persona_id TEXT NOT NULL REFERENCES genomes (persona_id),
  trait_type TEXT NOT NULL,
  layer_id   TEXT REFERENCES genome_layers (id),
  pinned     INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
  PRIMARY KEY (persona_id, trait_type)
);
CREATE TABLE genome_events (
  id         INTEGER NOT NULL PRIMARY KEY,
  at         TEXT NOT NULL,
  persona_id TEXT NOT NULL,
  trait_type TEXT,
  revision   INTEGER NOT NULL,
  kind       TEXT NOT NULL,
  layer_id   TEXT REFERENCES genome_layers (id),
  actor      TEXT NOT NULL,
  reason     TEXT NOT NULL DEFAULT ''
);
CREATE INDEX genome_events_by_persona ON genome_events (persona_id, id);
CREATE TABLE runtime_states (
  runtime    TEXT NOT NULL,
  persona_id TEXT NOT NULL,
  desired    INTEGER NOT NULL,
  observed   INTEGER,
  state      TEXT NOT NULL,
  error      TEXT,
  PRIMARY KEY (runtime, persona_id)
);
CREATE TABLE admin_requests (
  id           TEXT NOT NULL PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
  kind         TEXT NOT NULL,
  args         TEXT NOT NULL DEFAULT '{}' CONSTRAINT "args is a JSON object" CHECK (json_valid(args) AND json_type(args) = 'object'),
  state        TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'begun', 'done', 'refused')),
  result       TEXT,
  requested_by TEXT NOT NULL DEFAULT '',
  requested_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX admin_requests_asked ON admin_requests (requested_at) WHERE state = 'asked';
