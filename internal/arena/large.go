package arena

import "github.com/pulkdb/db/internal/invariant"

// An object above the largest class is a span of its own: a run of pages of one
// chunk or, above half a chunk, a run of chunks that it has to itself and that
// goes back to the system with it. The word of such a span is always 0.

// allocLarge returns an object of n bytes. It takes the mutex.
func (a *Arena) allocLarge(n int, k Kind) Ref {
	pages := (n + pageBytes - 1) / pageBytes
	a.mu.Lock()
	defer a.mu.Unlock()
	var id spanID
	if n > chunkBytes/2 {
		chunks := (n + chunkBytes - 1) / chunkBytes
		pages = chunks * pagesPerChunk
		first := a.mapChunksLocked(chunks)
		if first == 0 {
			return 0
		}
		for i := range chunks {
			c := a.chunks[first+i].Load()
			c.run, c.freePages = -1, 0
		}
		a.chunks[first].Load().run = chunks
		a.held.Add(int64(pages) * pageBytes)
		id = spanID(first * pagesPerChunk)
	} else if id = a.takePagesLocked(pages); id == 0 {
		return 0
	}
	a.describeLocked(id, classLarge, pages)
	r := refOf(id)
	if invariant.Debug {
		a.poison(r, pages*pageBytes)
		a.freed.forget(r)
	}
	a.used[0].add(k, pages*pageBytes)
	return r
}

// freeLarge gives the object's pages back. It takes the mutex.
func (a *Arena) freeLarge(r Ref, c *chunk, id spanID, s *span, k Kind) {
	invariant.Check(r == refOf(id), "arena: Free of a reference into an object")
	a.mu.Lock()
	defer a.mu.Unlock()
	pages := int(s.pages)
	invariant.Check(pages != 0, "arena: object freed twice")
	s.pages = 0
	if invariant.Debug {
		a.poison(r, pages*pageBytes)
	}
	a.used[0].add(k, -pages*pageBytes)
	if c.run > 0 {
		a.unmap(int(id/pagesPerChunk), c)
		a.held.Add(-int64(pages) * pageBytes)
		return
	}
	a.givePagesLocked(id, pages)
}
