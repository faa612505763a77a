"""Text to token ids and back, byte for byte: byte-level BPE and SentencePiece behind one interface."""
