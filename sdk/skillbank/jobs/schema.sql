-- Store of jobs, version 1. What must never happen is refused here too, whoever writes.
--
-- The history (transitions) is the truth; state, message and error of a job row are copies kept by a trigger.

CREATE TABLE IF NOT EXISTS jobs (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  network TEXT NOT NULL,
  action TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  description TEXT NOT NULL,
  tags TEXT NOT NULL,
  state TEXT NOT NULL,
  message TEXT NOT NULL,
  error TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  results_dir TEXT NOT NULL,
  request_digest TEXT NOT NULL,
  workspace_id TEXT,
  experiment_id TEXT,
  base_experiment_id TEXT,
  parent_id TEXT,
  launcher TEXT NOT NULL,
  backend_ref TEXT NOT NULL DEFAULT '{}',
  idempotency_key TEXT UNIQUE,
  creator TEXT NOT NULL,
  encryption_key_digest TEXT,
  versions TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_network ON jobs (network, action);
CREATE INDEX IF NOT EXISTS jobs_by_parent ON jobs (parent_id) WHERE parent_id IS NOT NULL;

-- Apart from the job row, since it is most of the bytes and a list of jobs does without.
CREATE TABLE IF NOT EXISTS requests (
  job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  text TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS transitions (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  ts TEXT NOT NULL,
  state TEXT NOT NULL CHECK (
    state IN (
      'pending', 'running', 'pausing', 'paused', 'resuming', 'canceling', 'done', 'error', 'canceled', 'unknown'
    )
  ),
  message TEXT NOT NULL,
  source TEXT NOT NULL CHECK (source IN ('sdk', 'worker', 'launcher', 'reconcile')),
  error TEXT
);

CREATE INDEX IF NOT EXISTS transitions_by_job ON transitions (job_id, seq);

CREATE TABLE IF NOT EXISTS artifacts (
  seq INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  kind TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  created_at TEXT NOT NULL,
  epoch INTEGER,
  step INTEGER,
  metrics TEXT NOT NULL,
  UNIQUE (job_id, path)
);

CREATE TABLE IF NOT EXISTS experiments (
  kind TEXT NOT NULL CHECK (kind IN ('workspace', 'experiment')),
  id TEXT NOT NULL,
  network TEXT,
  created_at TEXT NOT NULL,
  PRIMARY KEY (kind, id)
);

CREATE TRIGGER IF NOT EXISTS transitions_stop_at_the_end
BEFORE INSERT ON transitions
WHEN (SELECT state FROM jobs WHERE id = NEW.job_id) IN ('done', 'error', 'canceled')
BEGIN
  SELECT RAISE(ABORT, 'a final state is immutable');
END;

CREATE TRIGGER IF NOT EXISTS transitions_set_state
AFTER INSERT ON transitions
BEGIN
  UPDATE jobs
  SET state = NEW.state, message = NEW.message, error = NEW.error, updated_at = NEW.ts
  WHERE id = NEW.job_id;
END;

CREATE TRIGGER IF NOT EXISTS transitions_are_not_changed
BEFORE UPDATE ON transitions
BEGIN
  SELECT RAISE(ABORT, 'transitions are append-only');
END;

-- Rows go only together with their job: by then the job row is gone.
CREATE TRIGGER IF NOT EXISTS transitions_are_not_deleted
BEFORE DELETE ON transitions
WHEN EXISTS (SELECT 1 FROM jobs WHERE id = OLD.job_id)
BEGIN
  SELECT RAISE(ABORT, 'transitions are append-only');
END;

CREATE TRIGGER IF NOT EXISTS jobs_state_comes_from_transitions
BEFORE UPDATE OF state ON jobs
WHEN NEW.state IS NOT (SELECT state FROM transitions WHERE job_id = NEW.id ORDER BY seq DESC LIMIT 1)
BEGIN
  SELECT RAISE(ABORT, 'the state of a job changes by a transition only');
END;

CREATE TRIGGER IF NOT EXISTS jobs_are_deleted_when_final
BEFORE DELETE ON jobs
WHEN OLD.state NOT IN ('done', 'error', 'canceled')
BEGIN
  SELECT RAISE(ABORT, 'only a job in a final state can be deleted');
END;
