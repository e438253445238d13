"""How deep and how wide to draft, and whether at all: from what rounds took and what was accepted."""
