"""A session with a database: load three files, then ask one question after another."""

import csv
import sqlite3
from pathlib import Path

# %% Load the files into a database.
Path("library.db").unlink(missing_ok=True)
db = sqlite3.connect("library.db")
db.row_factory = sqlite3.Row
db.executescript(
    """
    CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author TEXT, genre TEXT, year INTEGER);
    CREATE TABLE members (id INTEGER PRIMARY KEY, name TEXT NOT NULL, joined TEXT);
    CREATE TABLE loans (
        id INTEGER PRIMARY KEY,
        book_id INTEGER NOT NULL REFERENCES books(id),
        member_id INTEGER NOT NULL REFERENCES members(id),
        lent TEXT NOT NULL,
        returned TEXT
    );
    CREATE INDEX loans_by_book ON loans(book_id);
    """
)
db.execute("PRAGMA foreign_keys = ON")


def load(table: str) -> int:
    with Path(f"{table}.csv").open(newline="") as f:
        reader = csv.reader(f)
        columns = next(reader)
        rows = [[value or None for value in row] for row in reader]
    marks = ", ".join("?" for _ in columns)
    with db:
        db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
    return len(rows)


counts = {table: load(table) for table in ("books", "members", "loans")}
print(counts)
counts

# %% Which books are lent most?
popular = db.execute(
    """
    SELECT b.id, b.title, b.author, COUNT(*) AS times
    FROM loans AS l JOIN books AS b ON b.id = l.book_id
    GROUP BY b.id ORDER BY times DESC, b.id LIMIT 5
    """
).fetchall()
for row in popular:
    print(f"{row['times']:3d} x {row['title']} by {row['author']}")
[(row["id"], row["times"]) for row in popular]

# %% How long are books out, by genre?
durations = {
    row["genre"]: (row["loans"], round(row["days"], 2))
    for row in db.execute(
        """
        SELECT b.genre AS genre, COUNT(*) AS loans, AVG(julianday(l.returned) - julianday(l.lent)) AS days
        FROM loans AS l JOIN books AS b ON b.id = l.book_id
        WHERE l.returned IS NOT NULL
        GROUP BY b.genre ORDER BY b.genre
        """
    )
}
for genre, (loans, days) in durations.items():
    print(f"{genre:8} {loans:5d} loans, {days:5.2f} days on average")
durations

# %% Who has had a book for more than 60 days, and which is each one's longest? (the last entry is from November 2025)
TODAY = "2025-11-20"
overdue = db.execute(
    """
    WITH open_loans AS (
        SELECT m.name AS name, m.id AS member, b.title AS title,
               CAST(julianday(?) - julianday(l.lent) AS INTEGER) AS days,
               ROW_NUMBER() OVER (PARTITION BY m.id ORDER BY l.lent, l.id) AS place
        FROM loans AS l JOIN members AS m ON m.id = l.member_id JOIN books AS b ON b.id = l.book_id
        WHERE l.returned IS NULL
    )
    SELECT member, name, title, days FROM open_loans WHERE place = 1 AND days > 60 ORDER BY days DESC, member
    """,
    (TODAY,),
).fetchall()
print(f"{len(overdue)} members are overdue; the worst:")
for row in overdue[:3]:
    print(f"  {row['name']:10} {row['days']:4d} days  {row['title']}")
[(row["member"], row["days"]) for row in overdue]

# %% A loan of a book that does not exist must leave nothing behind.
try:
    with db:
        db.execute("INSERT INTO loans VALUES (9001, 1, 1, '2025-11-20', NULL)")
        db.execute("INSERT INTO loans VALUES (9002, 9999, 1, '2025-11-20', NULL)")
except sqlite3.IntegrityError as error:
    print("refused:", error)
(total,) = db.execute("SELECT COUNT(*) FROM loans").fetchone()
db.close()
total
