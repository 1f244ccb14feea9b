"""The tables of conversations.

Job: the file's schema as numbered migrations.
Non-job: carrying them out, and everything in the tables (`store`).
"""

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY,
        title TEXT NOT NULL,
        document TEXT NOT NULL DEFAULT '',
        head INTEGER REFERENCES turns(id) ON DELETE SET NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    );
    CREATE TABLE turns (
        id INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        parent INTEGER REFERENCES turns(id) ON DELETE CASCADE,
        question TEXT NOT NULL,
        answer TEXT NOT NULL DEFAULT '',
        token_ids BLOB NOT NULL DEFAULT x'',
        is_drafted BLOB NOT NULL DEFAULT x'',
        model TEXT NOT NULL,
        preset TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT 'interrupted',
        details TEXT NOT NULL DEFAULT '{}',
        created_at REAL NOT NULL
    );
    CREATE INDEX turns_by_conversation ON turns(conversation);
    CREATE TABLE pieces (
        id INTEGER PRIMARY KEY,
        turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        text TEXT NOT NULL,
        token_ids BLOB NOT NULL,
        is_drafted BLOB NOT NULL
    );
    CREATE INDEX pieces_by_turn ON pieces(turn);
    """,
)  # each brings the file from its index to the next version; never change one that was released
