"""What is published: bundles, cards, pushing; and a Hub of one's own."""
