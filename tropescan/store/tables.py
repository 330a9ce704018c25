"""The tables and views of a database, version schema.SCHEMA_VERSION: what people write SQL against. The README documents every column."""

from __future__ import annotations

import pyarrow as pa

from tropescan.schema import COUNTERS, DOCUMENTS, PASSAGES, SELECTIONS

_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us"): "TIMESTAMP",
}
_KEY = "shard VARCHAR NOT NULL, model VARCHAR NOT NULL"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} {_TYPES[f.type]}" for f in schema)


TABLES = f"""
CREATE TABLE tropescan (schema_version INTEGER, tropescan_version VARCHAR, created_at TIMESTAMP);
CREATE TABLE models (model VARCHAR NOT NULL, name VARCHAR, fingerprint VARCHAR, depth VARCHAR, threshold DOUBLE, thresholds VARCHAR,
  hit_floor DOUBLE, tropescan_version VARCHAR, scanned_at TIMESTAMP);
CREATE TABLE files ({_KEY}, path VARCHAR, format VARCHAR, bytes BIGINT, tag VARCHAR, rows BIGINT, units INTEGER, audit DOUBLE,
  kind VARCHAR, error VARCHAR);
CREATE TABLE units ({_KEY}, unit INTEGER, first_row BIGINT, planned_rows BIGINT, status VARCHAR, kind VARCHAR, error VARCHAR,
  {", ".join(f"{c} BIGINT" for c in COUNTERS)}, seconds DOUBLE, backend VARCHAR, scanned_at TIMESTAMP);
CREATE TABLE documents ({_KEY}, unit INTEGER, {_columns(DOCUMENTS)});
CREATE TABLE passages ({_KEY}, unit INTEGER, {_columns(PASSAGES)});
CREATE TABLE selections ({_columns(SELECTIONS)});
"""

VIEWS = f"""
CREATE OR REPLACE VIEW shards AS
SELECT f.shard, f.model, f.path, f.format, f.bytes, f.tag, f.rows, f.units, f.audit,
  count(u.unit) FILTER (u.status = 'done') AS units_done,
  CASE WHEN f.kind IS NOT NULL OR count(*) FILTER (u.status = 'failed') > 0 THEN 'failed'
       WHEN count(*) FILTER (u.status = 'done') = f.units THEN 'done'
       WHEN count(u.unit) > 0 THEN 'partial' ELSE 'pending' END AS status,
  coalesce(f.kind, min(u.kind)) AS kind, coalesce(f.error, min(u.error)) AS error,
  coalesce(sum(u.rows), 0)::BIGINT AS documents,
  {", ".join(f"coalesce(sum(u.{c}), 0)::BIGINT AS {c}" for c in COUNTERS if c != "rows")},
  coalesce(sum(u.seconds), 0) AS seconds, max(u.scanned_at) AS scanned_at
FROM files f LEFT JOIN units u USING (shard, model)
GROUP BY f.shard, f.model, f.path, f.format, f.bytes, f.tag, f.rows, f.units, f.audit, f.kind, f.error;

CREATE OR REPLACE VIEW flagged AS
SELECT d.*, f.path, m.threshold FROM documents d JOIN models m USING (model) JOIN files f USING (shard, model) WHERE d.score >= m.threshold;

CREATE OR REPLACE VIEW prevalence AS
WITH d AS (
  SELECT shard, model, count(*) FILTER (score >= threshold) AS flagged, sum(score) AS expected,
    coalesce(sum(characters) FILTER (score >= threshold), 0) AS flagged_characters
  FROM documents JOIN models USING (model) GROUP BY ALL),
p AS (
  SELECT shard, model, count(*) AS flagged_passages, sum(end_char - start_char) AS passage_characters
  FROM passages JOIN models USING (model) WHERE score >= threshold AND audited IS NULL GROUP BY ALL),
s AS (
  SELECT s.*, m.threshold, coalesce(d.flagged, 0) AS k, s.documents AS n, d.expected, coalesce(d.flagged_characters, 0) AS fc,
    coalesce(p.flagged_passages, 0) AS fp, coalesce(p.passage_characters, 0) AS pc
  FROM shards s JOIN models m USING (model) LEFT JOIN d USING (shard, model) LEFT JOIN p USING (shard, model))
SELECT path, shard, model, status, threshold, documents, gated_documents, k AS flagged_documents, fp AS flagged_passages,
  k / nullif(n, 0) AS prevalence,
  CASE WHEN n > 0 THEN greatest(0, (k + 1.9208 - 1.96 * sqrt(k * (n - k) / n + 0.9604)) / (n + 3.8416)) END AS prevalence_low,
  CASE WHEN n > 0 THEN least(1, (k + 1.9208 + 1.96 * sqrt(k * (n - k) / n + 0.9604)) / (n + 3.8416)) END AS prevalence_high,
  coalesce(expected, 0) / nullif(n, 0) AS expected_prevalence,
  characters, fc::BIGINT AS flagged_characters, pc::BIGINT AS flagged_passage_characters, pc / nullif(characters, 0) AS character_prevalence
FROM s;

CREATE OR REPLACE VIEW domains AS
SELECT d.model, d.domain, count(*) FILTER (d.fast_score IS NOT NULL) AS gated_documents,
  count(*) FILTER (d.score >= m.threshold) AS flagged_documents, max(d.score) AS highest
FROM documents d JOIN models m USING (model) GROUP BY ALL;

CREATE OR REPLACE VIEW histograms AS
SELECT shard, model, least(19, floor(score * 20))::INTEGER AS bin, count(*) AS documents FROM documents WHERE score IS NOT NULL GROUP BY ALL;
"""
