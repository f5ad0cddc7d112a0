"""A running server second by second: from two snapshots of its counts to what a page or a terminal shows. Pure."""
