"""The tables of the store, for SQLite and PostgreSQL alike; `core/migrations` makes them.

Moments are Unix seconds. People are named by their pseudonym (`user_id`), never by their own name.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("platform", sa.String(16), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
    sa.Column("title", sa.String(80), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("reply_id", sa.String(64), primary_key=True),
    sa.Column(
        "conversation_id",
        sa.ForeignKey("conversations.id", ondelete="CASCADE"),
        nullable=False,
    ),
    sa.Column("message_id", sa.String(128), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("platform", sa.String(16), nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("prompt", sa.JSON, nullable=False),
    sa.Column("passages", sa.JSON, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("language", sa.String(8), nullable=False),
    sa.Column("sources", sa.JSON, nullable=False),
    sa.Column("suggestions", sa.JSON, nullable=False),
    sa.Column("adapter", sa.String(128), nullable=False),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("timings", sa.JSON, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("asked", sa.String(128)),
    sa.Column("failure", sa.String(32)),
    sa.UniqueConstraint("platform", "conversation_id", "message_id"),
    sa.Index("turns_by_conversation", "conversation_id", "asked_at"),
    sa.Index("turns_by_asked", "asked", "asked_at"),
)

photos = sa.Table(
    "photos",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("conversation_id", sa.String(64), nullable=False),
    sa.Column("message_id", sa.String(128), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("jpeg", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("conversation_id", "message_id", "position"),
)

feedback_events = sa.Table(
    "feedback_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("reply_id", sa.ForeignKey("turns.reply_id", ondelete="CASCADE"), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("rating", sa.String(8), nullable=False),
    sa.Column("reason", sa.String(32)),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("correction", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("by_reaction", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("feedback_by_reply", "reply_id", "user_id", "id"),
)

reactions = sa.Table(
    "reactions",
    metadata,
    sa.Column("reply_id", sa.ForeignKey("turns.reply_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("rating", sa.String(8), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("platform", sa.String(16), nullable=False),
    sa.Column("conversation_id", sa.String(64), nullable=False),
    sa.Column("message_id", sa.String(128), nullable=False),
    sa.Column("message", sa.JSON, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("leased_until", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("stopped", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failing_since", sa.Float),
    sa.Column("problem", sa.String(200)),
    sa.Column("apology_due", sa.Float),
    sa.UniqueConstraint("platform", "conversation_id", "message_id"),
    sa.Index("inbox_by_state", "state", "id"),
)

posts = sa.Table(
    "posts",
    metadata,
    sa.Column("place", sa.String(64), primary_key=True),
    sa.Column("post_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("conversation_id", sa.String(64), nullable=False),
    sa.Column("message_id", sa.String(128), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("posted_at", sa.Float, nullable=False),
    sa.Index("posts_by_message", "conversation_id", "message_id"),
)

people = sa.Table(
    "people",
    metadata,
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("language", sa.String(8)),
    sa.Column("tell", sa.Boolean),
    sa.Column("duels", sa.Boolean),
)

starts = sa.Table(
    "starts",
    metadata,
    sa.Column("place", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
)

duels = sa.Table(
    "duels",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("reply_id", sa.String(64), nullable=False, index=True),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("adapter", sa.String(128), nullable=False),
    # Whether the reply itself is B, and the one beside it A.
    sa.Column("swapped", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("winner", sa.String(8)),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("decided_at", sa.Float),
)

pairs = sa.Table(
    "pairs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("reply_id", sa.String(64), nullable=False, index=True),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
    sa.Column("conversation_id", sa.String(64), nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("prompt", sa.JSON, nullable=False),
    sa.Column("passages", sa.JSON, nullable=False),
    sa.Column("chosen", sa.Text, nullable=False),
    sa.Column("rejected", sa.Text, nullable=False),
    sa.Column("adapter", sa.String(128), nullable=False),
    sa.Column("language", sa.String(8), nullable=False),
    sa.Column("reason", sa.String(32)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("refusal", sa.Text, nullable=False),
    sa.Column("accepted_by", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("decided_at", sa.Float),
    sa.Index("pairs_by_state", "state", "created_at"),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(128), nullable=False, unique=True),
    sa.Column("stage", sa.String(8), nullable=False),
    sa.Column("recipe", sa.String(64), nullable=False),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("why", sa.String(200), nullable=False),
    sa.Column("started_by", sa.String(64), nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("adapter", sa.String(128), nullable=False),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # How often the step that it is at did not come to an end.
    sa.Column("breaks", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("runs_by_state", "state", "created_at"),
)

run_pairs = sa.Table(
    "run_pairs",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("pair_id", sa.String(64), primary_key=True),
    sa.Column("split", sa.String(8), nullable=False),
    sa.Index("runs_by_pair", "pair_id"),
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("run_id", sa.String(64)),
    sa.Column("parent", sa.String(128)),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("flagged_at", sa.Float),
)

# Who answers: the last row counts. Promotion and rollback are one row each.
routes = sa.Table(
    "routes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("live", sa.String(128), nullable=False),
    sa.Column("previous", sa.String(128), nullable=False),
    sa.Column("canary", sa.String(128), nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("routed_at", sa.Float, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(128), nullable=False, index=True),
    sa.Column("before", sa.String(24), nullable=False),
    sa.Column("after", sa.String(24), nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("pair_id", sa.String(64), primary_key=True),
    sa.Column("adapter", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("told_at", sa.Float),
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("erased_at", sa.Float, nullable=False),
)
