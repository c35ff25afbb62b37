//! More than the rules' examples: the matrix of types, and what depends on what is there already.

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b text);";
const V: &str = "CREATE TABLE t (id int PRIMARY KEY, v varchar(10), n numeric(10,2), s timestamp(3), c char(5), j json, i int[], k varchar(3)[]);";

/// (name, setup, statement).
pub const MORE: &[(&str, &str, &str)] = &[
    (
        "varchar longer",
        V,
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(20)",
    ),
    ("varchar to text", V, "ALTER TABLE t ALTER COLUMN v TYPE text"),
    (
        "varchar without limit",
        V,
        "ALTER TABLE t ALTER COLUMN v TYPE varchar",
    ),
    (
        "varchar shorter",
        V,
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(5)",
    ),
    (
        "numeric wider",
        V,
        "ALTER TABLE t ALTER COLUMN n TYPE numeric(12,2)",
    ),
    (
        "numeric without limit",
        V,
        "ALTER TABLE t ALTER COLUMN n TYPE numeric",
    ),
    (
        "numeric scale",
        V,
        "ALTER TABLE t ALTER COLUMN n TYPE numeric(12,3)",
    ),
    (
        "timestamp finer",
        V,
        "ALTER TABLE t ALTER COLUMN s TYPE timestamp(6)",
    ),
    ("timestamp full", V, "ALTER TABLE t ALTER COLUMN s TYPE timestamp"),
    (
        "timestamp coarser",
        V,
        "ALTER TABLE t ALTER COLUMN s TYPE timestamp(1)",
    ),
    ("char to text", V, "ALTER TABLE t ALTER COLUMN c TYPE text"),
    ("char longer", V, "ALTER TABLE t ALTER COLUMN c TYPE char(9)"),
    ("json to jsonb", V, "ALTER TABLE t ALTER COLUMN j TYPE jsonb"),
    ("int array", V, "ALTER TABLE t ALTER COLUMN i TYPE bigint[]"),
    (
        "varchar array without limit",
        V,
        "ALTER TABLE t ALTER COLUMN k TYPE varchar[]",
    ),
    (
        "varchar array to text array",
        V,
        "ALTER TABLE t ALTER COLUMN k TYPE text[]",
    ),
    ("text to varchar", T, "ALTER TABLE t ALTER COLUMN b TYPE varchar"),
    (
        "text to varchar(n)",
        T,
        "ALTER TABLE t ALTER COLUMN b TYPE varchar(10)",
    ),
    (
        "using a cast",
        T,
        "ALTER TABLE t ALTER COLUMN b TYPE varchar USING b::varchar",
    ),
    (
        "using a function",
        T,
        "ALTER TABLE t ALTER COLUMN b TYPE text USING lower(b)",
    ),
    (
        "text to a free domain",
        "CREATE DOMAIN d AS text; CREATE TABLE t (id int, b text);",
        "ALTER TABLE t ALTER COLUMN b TYPE d",
    ),
    (
        "not null with a default",
        T,
        "ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 5",
    ),
    (
        "default now()",
        T,
        "ALTER TABLE t ADD COLUMN c timestamptz DEFAULT now()",
    ),
    (
        "default clock_timestamp()",
        T,
        "ALTER TABLE t ADD COLUMN c timestamptz DEFAULT clock_timestamp()",
    ),
    (
        "identity",
        T,
        "ALTER TABLE t ADD COLUMN c int GENERATED ALWAYS AS IDENTITY",
    ),
    (
        "a free domain",
        "CREATE DOMAIN d AS int; CREATE TABLE t (id int);",
        "ALTER TABLE t ADD COLUMN c d",
    ),
    ("rename table", T, "ALTER TABLE t RENAME TO u"),
    (
        "primary key using a proved index",
        "CREATE TABLE t (id int NOT NULL); CREATE UNIQUE INDEX i ON t (id);",
        "ALTER TABLE t ADD PRIMARY KEY USING INDEX i",
    ),
    (
        "two actions",
        T,
        "ALTER TABLE t ADD COLUMN c int, ALTER COLUMN a SET NOT NULL",
    ),
    ("delete all", T, "DELETE FROM t"),
    ("lock", T, "LOCK TABLE t IN SHARE MODE"),
    ("comment", T, "COMMENT ON COLUMN t.a IS 'x'"),
    ("statistics", T, "ALTER TABLE t ALTER COLUMN a SET STATISTICS 500"),
    ("storage", T, "ALTER TABLE t ALTER COLUMN b SET STORAGE EXTERNAL"),
    ("disable trigger", T, "ALTER TABLE t DISABLE TRIGGER USER"),
    ("policy", T, "CREATE POLICY p ON t USING (true)"),
    ("create table as", T, "CREATE TABLE u AS SELECT a FROM t"),
    (
        "insert from",
        "CREATE TABLE t (a int); CREATE TABLE u (a int);",
        "INSERT INTO u SELECT a FROM t",
    ),
    (
        "index on a partitioned table",
        "CREATE TABLE t (id int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);",
        "CREATE INDEX x ON t (id)",
    ),
    (
        "attach what a CHECK proves",
        "CREATE TABLE t (id int, a int) PARTITION BY RANGE (id); CREATE TABLE t1 (id int, a int, CONSTRAINT k CHECK (id IS NOT NULL AND id >= 0 AND id < 10));",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)",
    ),
    (
        "attach what a CHECK does not prove",
        "CREATE TABLE t (id int, a int) PARTITION BY RANGE (id); CREATE TABLE t1 (id int, a int, CONSTRAINT k CHECK (id IS NOT NULL AND id >= 0 AND id <= 10)); INSERT INTO t1 VALUES (1);",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)",
    ),
    (
        "attach dates that a CHECK proves",
        "CREATE TABLE t (d date NOT NULL) PARTITION BY RANGE (d); CREATE TABLE t1 (d date NOT NULL, CONSTRAINT k CHECK (d >= '2024-05-01' AND d < '2024-05-31')); INSERT INTO t1 VALUES ('2024-05-02');",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM ('2024-05-01') TO ('2024-06-01')",
    ),
    (
        "attach a list that a CHECK proves",
        "CREATE TABLE t (s text NOT NULL) PARTITION BY LIST (s); CREATE TABLE t1 (s text NOT NULL, CONSTRAINT k CHECK (s = 'a')); INSERT INTO t1 VALUES ('a');",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN ('a', 'b')",
    ),
    (
        "attach beside a default partition whose CHECK excludes the bound",
        "CREATE TABLE t (id int) PARTITION BY RANGE (id); CREATE TABLE td (id int, CONSTRAINT far CHECK (id >= 100)); INSERT INTO td VALUES (100); ALTER TABLE t ATTACH PARTITION td DEFAULT; CREATE TABLE t1 (id int, CONSTRAINT k CHECK (id IS NOT NULL AND id >= 0 AND id < 10)); INSERT INTO t1 VALUES (1);",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)",
    ),
    (
        "attach beside a default partition",
        "CREATE TABLE t (id int) PARTITION BY RANGE (id); CREATE TABLE td PARTITION OF t DEFAULT; INSERT INTO t VALUES (100); CREATE TABLE t1 (id int, CONSTRAINT k CHECK (id IS NOT NULL AND id >= 0 AND id < 10)); INSERT INTO t1 VALUES (1);",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)",
    ),
    (
        "inherit",
        "CREATE TABLE t (a int); CREATE TABLE t1 () INHERITS (t);",
        "ALTER TABLE t ADD COLUMN c int",
    ),
    (
        "drop a child of a key",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int, a int REFERENCES p);",
        "DROP TABLE t",
    ),
    ("reindex table", T, "REINDEX TABLE t"),
    ("sequence", "CREATE SEQUENCE s;", "ALTER SEQUENCE s AS int"),
];

/// By the names that the setups give them.
pub fn is_index_or_sequence(name: &str) -> bool {
    matches!(name, "i" | "s" | "k" | "x")
        || name.ends_with("_pkey")
        || name.ends_with("_key")
        || name.ends_with("_seq")
        || name.ends_with("_idx")
}
