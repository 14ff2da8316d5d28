package arena

// Prefetch asks the processor for the first lines cache lines of r's object, and
// waits for none. It reads nothing, so r need not be live.
// REQUIRES: lines > 0.
func (a *Arena) Prefetch(r Ref, lines int) { prefetchLines(a.Pointer(r), lines) }
