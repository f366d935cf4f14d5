"""Programs that nobody wrote: generated attacks, generated ordinary programs, sessions in any order, bytes for decoders. Needs hypothesis."""
