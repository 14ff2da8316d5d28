package arena

import (
	"math/bits"
	"os"

	"github.com/pulkdb/db/internal/invariant"
)

// refill takes an object of class c from a span with free objects, or from a
// new span, and makes that the stripe's current one. Of the first few spans it takes
// the fullest: emptier ones may become empty, and of use to other classes.
func (a *Arena) refill(c int, st *stripe) Ref {
	for {
		id := a.popFullest(c)
		if id == 0 {
			var r Ref
			if id, r = a.newSpan(c, st); r != 0 || id == 0 {
				return r
			}
		}
		s := a.span(id)
		s.state.Store(stateCurrent)
		if r := a.takeFrom(id, c); r != 0 {
			a.setCurrent(st, id)
			return r
		}
		a.leave(s, id) // others, who knew it from before, took all it had
	}
}

const popTries = 4

// popFullest takes a span off the list of its class, or returns 0.
func (a *Arena) popFullest(c int) spanID {
	best := a.partial[c].pop(a)
	if best == 0 {
		return 0
	}
	for range popTries - 1 {
		free := bits.OnesCount64(a.span(best).word.Load())
		if free <= int(classes[c].objects)/4 {
			break
		}
		id := a.partial[c].pop(a)
		if id == 0 {
			break
		}
		if bits.OnesCount64(a.span(id).word.Load()) < free {
			best, id = id, best
		}
		a.partial[c].push(a, id)
	}
	return best
}

// setCurrent makes id, which the caller owns, the stripe's current span.
func (a *Arena) setCurrent(st *stripe, id spanID) {
	if old := spanID(st.current.Swap(uint32(id))); old != 0 {
		a.leave(a.span(old), old)
	}
}

// newSpan returns a span of class c that nobody else knows yet. It returns an
// object instead if the stripe got a new span meanwhile, and zeros when there
// is no memory.
func (a *Arena) newSpan(c int, st *stripe) (spanID, Ref) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id := spanID(st.current.Load()); id != 0 {
		if r := a.takeFrom(id, c); r != 0 {
			return 0, r
		}
	}
	k := &classes[c]
	id, pages := a.takeSpanLocked(k)
	if id == 0 {
		// The last span of the class may have been freed into meanwhile.
		return a.partial[c].pop(a), 0
	}
	a.describeLocked(id, c, int(pages))
	if invariant.Debug {
		a.poison(refOf(id), int(k.size*k.objectsIn(pages)))
	}
	s := a.span(id)
	s.state.Store(stateCurrent)
	s.word.Store(k.fullWord(pages))
	return id, 0
}

// takeSpanLocked returns pages for a span of class k, or 0. When there is no run that is
// long enough it takes a shorter one, for half the objects, a quarter, and so on to one:
// pages between spans are of no use else, and memory would grow beyond what objects need.
// With all runs shorter than an object it asks the system.
func (a *Arena) takeSpanLocked(k *class) (id spanID, pages uint32) {
	if id, pages = a.findSpanLocked(k); id != 0 {
		return id, pages
	}
	if a.scavengeLocked() {
		if id, pages = a.findSpanLocked(k); id != 0 {
			return id, pages
		}
	}
	return a.takePagesLocked(int(k.pages)), k.pages
}

func (a *Arena) findSpanLocked(k *class) (id spanID, pages uint32) {
	pages = k.pages
	for objects := k.objects; ; pages = k.pagesFor(objects) {
		if id = a.findPagesLocked(int(pages)); id != 0 {
			return id, pages
		}
		if objects /= 2; objects == 0 || pages == 1 {
			return 0, 0
		}
	}
}

// describeLocked writes the metadata of a span whose pages were just taken.
func (a *Arena) describeLocked(id spanID, class, pages int) {
	c := a.chunks[id/pagesPerChunk].Load()
	for i := range min(pages, pagesPerChunk) {
		c.spanOf(uint32(id) + uint32(i)).back = uint16(i)
	}
	s := c.spanOf(uint32(id))
	s.class = uint8(class)
	s.pages = uint32(pages)
}

// takePagesLocked returns a run of n free pages, or 0. It releases spans without
// objects before it asks the system for more.
func (a *Arena) takePagesLocked(n int) spanID {
	if id := a.findPagesLocked(n); id != 0 {
		return id
	}
	if a.scavengeLocked() {
		if id := a.findPagesLocked(n); id != 0 {
			return id
		}
	}
	if a.mapChunksLocked(1) == 0 {
		a.leaveAllLocked() // the last resort: spans that stripes hold
		a.scavengeLocked()
	}
	return a.findPagesLocked(n)
}

func (a *Arena) findPagesLocked(n int) spanID {
	allFull := true // so far
	for i := a.firstOpen; i < a.numChunks; i++ {
		c := a.chunks[i].Load()
		if page := c.takeRun(n); page >= 0 {
			a.held.Add(int64(n) * pageBytes)
			a.idle.Add(-int64(c.wake(page, n)) * pageBytes)
			return spanID(i*pagesPerChunk + page)
		}
		allFull = allFull && c.freePages == 0
		if allFull {
			a.firstOpen = i + 1
		}
	}
	return 0
}

// givePagesLocked takes back a run of pages.
func (a *Arena) givePagesLocked(id spanID, n int) {
	i := int(id / pagesPerChunk)
	a.chunks[i].Load().giveRun(int(id%pagesPerChunk), n)
	a.held.Add(-int64(n) * pageBytes)
	a.firstOpen = min(a.firstOpen, i)
}

// scavengeLocked releases the listed spans that hold no object, of all classes,
// and reports whether it found any. It runs once per chunk obtained from the
// system, so looking at every listed span is cheap.
func (a *Arena) scavengeLocked() bool {
	found := false
	for c := range a.partial {
		for id := a.partial[c].takeAll(); id != 0; {
			s := a.span(id)
			next := spanID(s.next.Load())
			if invariant.Debug {
				invariant.Pause()
			}
			// The CAS takes all objects at once, so no allocator holds or
			// can get one; then the pages are ours.
			if s.word.CompareAndSwap(classes[c].fullWord(s.pages), 0) {
				s.state.Store(stateNone)
				a.givePagesLocked(id, int(s.pages))
				found = true
			} else {
				a.partial[c].push(a, id)
			}
			id = next
		}
	}
	return found
}

// Scavenge makes the pages of spans without objects free for objects of any size.
// It looks at every span with free objects.
func (a *Arena) Scavenge() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scavengeLocked()
}

// mapChunksLocked obtains memory for n chunks in a row and returns the first's
// index, or 0.
func (a *Arena) mapChunksLocked(n int) int {
	bytes := int64(n) * chunkBytes
	if a.maxBytes != 0 && a.committed.Load()+bytes > a.maxBytes {
		return 0
	}
	first := a.findIndicesLocked(n)
	if first == 0 {
		return 0
	}
	memory := mapMemory(n * chunkBytes)
	if memory == nil {
		return 0
	}
	a.committed.Add(bytes)
	for i := range n {
		c := a.chunks[first+i].Load()
		if c == nil {
			c = new(chunk)
			a.chunks[first+i].Store(c)
		}
		c.memory = addBytes(memory, i*chunkBytes)
		a.memory[first+i] = c.memory
		if n == 1 {
			c.setAllFree()
			a.idle.Add(chunkBytes)
		}
		c.run = 0
	}
	a.numChunks = max(a.numChunks, first+n)
	a.firstOpen = min(a.firstOpen, first)
	return first
}

// findIndicesLocked returns the first of n table indices in a row without
// memory, or 0 when the table is full.
func (a *Arena) findIndicesLocked(n int) int {
	found := 0
	for i := 1; i < a.numChunks; i++ {
		if a.chunks[i].Load().memory != nil {
			found = 0
		} else if found++; found == n {
			return i - n + 1
		}
	}
	if a.numChunks-found+n > maxChunks {
		return 0
	}
	return a.numChunks - found
}

// unmap gives back the memory of chunk i, and of the later ones of its run.
func (a *Arena) unmap(i int, c *chunk) {
	n := 1
	if c.run > 0 {
		n = c.run
	}
	unmapMemory(c.memory, n*chunkBytes)
	a.idle.Add(-int64(c.idlePages()) * pageBytes)
	clear(c.idle[:])
	for j := range n {
		c := a.chunks[i+j].Load()
		c.memory, c.run, c.freePages = nil, 0, 0
		a.memory[i+j] = nil
	}
	a.committed.Add(-int64(n) * chunkBytes)
}

// leaveAllLocked takes the current spans of all stripes away from them.
func (a *Arena) leaveAllLocked() {
	for c := range a.stripes {
		for i := range a.stripes[c] {
			if id := spanID(a.stripes[c][i].current.Swap(0)); id != 0 {
				a.leave(a.span(id), id)
			}
		}
	}
}

// Trim gives back to the system what no object lives in, as far as whole chunks
// are empty. It looks at every span with free objects: meant for idle moments
// and for a cache that shrank.
func (a *Arena) Trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaveAllLocked()
	a.scavengeLocked()
	for i := 1; i < a.numChunks; i++ {
		c := a.chunks[i].Load()
		if c.memory != nil && c.run == 0 && c.freePages == pagesPerChunk {
			a.unmap(i, c)
		}
	}
}

// ReleaseFree gives memory of free pages back to the system, until at most keep bytes of
// it are left or there is no more, where the system can take it page by page. The
// addresses stay, and are used again when there is need.
func (a *Arena) ReleaseFree(keep int64) {
	unit := max(os.Getpagesize(), pageBytes) / pageBytes
	for i := 1; ; i++ {
		if done := a.releaseFreeOf(i, unit, keep); done {
			return
		}
	}
}

// releaseFreeOf is ReleaseFree of one chunk. It holds the mutex for no longer, so that
// others get their pages.
func (a *Arena) releaseFreeOf(i, unit int, keep int64) (done bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i >= a.numChunks {
		return true
	}
	c := a.chunks[i].Load()
	if c.memory == nil || c.run != 0 {
		return false
	}
	for from, n := c.nextLazy(0, unit); n > 0; from, n = c.nextLazy(from+n, unit) {
		if a.Resident()-a.Held() <= keep || !releaseMemory(addBytes(c.memory, from*pageBytes), n*pageBytes) {
			return true
		}
		a.idle.Add(int64(c.setIdle(from, n)) * pageBytes)
	}
	return false
}
