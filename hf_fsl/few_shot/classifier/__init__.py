"""FewShotClassifier, the front door: a Hub encoder and a few labels."""
