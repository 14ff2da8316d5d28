// Package arena is page memory outside the Go heap: pages, deltas and the
// position lists of evicted pages live here, where the garbage collector
// neither scans nor counts them.
//
// # What it guarantees
//
//	A1  A Ref returned by Alloc is not returned again before Free was called
//	    with it, and no two live objects overlap.
//	A2  An object's bytes are changed by nobody but its owner until Free.
//	A3  A Ref is a multiple of 16, below 1<<47, and never 0.
//	A4  Used is the sum of the sizes of all live objects, exactly, when no
//	    call is under way.
//
// # What it does not do
//
// It does not clear memory, and does not know whether somebody still reads what
// is freed: that is the business of package epoch. It never moves an object.
//
// # How
//
// Memory comes in chunks; a table maps the upper bits of a Ref to a chunk's
// address. A chunk is divided into pages of 2 KiB; a run of pages is a span,
// and a span holds up to 64 objects of one size class and one atomic word that
// says which are free. Alloc takes a bit of a span's word, Free gives it back:
// nothing is stored in freed memory, and no lock is taken. Only fetching a span
// takes the arena's mutex. Where no run is long enough for a whole span, a span is
// shorter and holds fewer objects. What lies free between spans can be given back to
// the system and stays in place (ReleaseFree, on linux). An object above the largest class is a span of its
// own, or a run of chunks of its own.
//
// On linux and darwin chunks are anonymous mappings of 16 MiB (on linux with
// huge pages where the system allows). In debug builds (tags race, pulkdebug)
// and elsewhere they are slices of the Go heap of 1 MiB, so that the race
// detector and checkptr see every access. Debug builds also fill freed memory
// with a pattern and check at Alloc that nobody has written to it since.
//
// Read first: span.go, then arena.go.
package arena
