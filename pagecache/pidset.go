package pagecache

import (
	"iter"
	"math/bits"
	"sync"
	"sync/atomic"
)

// A pidSet is a set of PIDs: a bit per slot of the mapping table, in chunks that
// are made when they are needed. All methods may be called by many goroutines at
// once. The zero pidSet is empty.
//
// Cache.written is the one that updates put their pages in: the slots that changed
// since the newest page-table snapshot. Which slots a difference must hold rests
// on this order, all of it by atomic operations:
//
//	an update          changes the slot, puts the PID in, completes its record
//	the checkpointer   fixes the replay start, takes the PID out (Swap), reads the slot
//
// So what a snapshot leaves out, replay brings. Let a snapshot be composed of the
// one before it and a difference with the slots taken out, and be replayed from R.
//   - An update whose record lies below R was complete when R was fixed, so its PID
//     was put in before the set was taken. It was taken now: then the slot, read
//     later, has the update. Or it was taken for an earlier snapshot: that one read
//     the slot after it took the PID out, which was put in after the slot had
//     changed, so it has the update, and this one has what that one had or what it
//     read anew since the PID was put in once more.
//   - An update whose record lies at R or behind is replayed, and applies by page
//     version (P4) to a slot that has it already or has all before it.
//
// A PID is in the set for nothing when its update lies behind R; that costs a few
// bytes. Free slots are slots: freeing, taking a freed PID again, and writing a
// free record anew change the slot and log an update like everything else. Nothing
// else needs to be known: folding in memory, loading and evicting leave the
// positions and the version of a page as they are.
type pidSet struct {
	// Atomic. The list is replaced by one of twice the length when it is too
	// short; an element is set once.
	chunks atomic.Pointer[[]atomic.Pointer[pidSetChunk]]

	grow sync.Mutex // one grower at a time
}

// A pidSetChunk has the bits of one chunk of the mapping table.
type pidSetChunk [tableChunkSlots / 64]atomic.Uint64

// set adds pid.
func (m *pidSet) set(pid PID) {
	word, bit := &m.chunk(uint64(pid) >> tableChunkBits)[uint64(pid)&(tableChunkSlots-1)/64], uint64(1)<<(pid%64)
	if word.Load()&bit == 0 {
		word.Or(bit)
	}
}

// chunk returns the i-th chunk, making it if there is none.
func (m *pidSet) chunk(i uint64) *pidSetChunk {
	if chunks := m.chunks.Load(); chunks != nil && i < uint64(len(*chunks)) {
		if c := (*chunks)[i].Load(); c != nil {
			return c
		}
	}
	m.grow.Lock()
	defer m.grow.Unlock()
	chunks := m.chunks.Load()
	if chunks == nil {
		chunks = &[]atomic.Pointer[pidSetChunk]{}
	}
	if i >= uint64(len(*chunks)) {
		grown := make([]atomic.Pointer[pidSetChunk], max(i+1, 2*uint64(len(*chunks))))
		for j := range *chunks {
			grown[j].Store((*chunks)[j].Load())
		}
		chunks = &grown
		m.chunks.Store(chunks)
	}
	c := (*chunks)[i].Load()
	if c == nil {
		c = new(pidSetChunk)
		(*chunks)[i].Store(c)
	}
	return c
}

// take removes all PIDs and returns them.
func (m *pidSet) take() *pidSet {
	taken := &pidSet{}
	m.each(func(i uint64, from *pidSetChunk) {
		var to *pidSetChunk
		for j := range from {
			if from[j].Load() == 0 {
				continue
			}
			if to == nil {
				to = taken.chunk(i)
			}
			to[j].Store(from[j].Swap(0))
		}
	})
	return taken
}

// add adds the PIDs of other.
func (m *pidSet) add(other *pidSet) {
	other.each(func(i uint64, from *pidSetChunk) {
		to := m.chunk(i)
		for j := range from {
			if word := from[j].Load(); word != 0 {
				to[j].Or(word)
			}
		}
	})
}

func (m *pidSet) each(fn func(i uint64, c *pidSetChunk)) {
	chunks := m.chunks.Load()
	if chunks == nil {
		return
	}
	for i := range *chunks {
		if c := (*chunks)[i].Load(); c != nil {
			fn(uint64(i), c)
		}
	}
}

// count returns the number of PIDs.
func (m *pidSet) count() (n uint64) {
	m.each(func(_ uint64, c *pidSetChunk) {
		for j := range c {
			n += uint64(bits.OnesCount64(c[j].Load()))
		}
	})
	return n
}

// all gives the PIDs in ascending order.
func (m *pidSet) all() iter.Seq[PID] {
	return func(give func(PID) bool) {
		more := true
		m.each(func(i uint64, c *pidSetChunk) {
			for j := range c {
				for word := c[j].Load(); word != 0 && more; word &= word - 1 {
					more = give(PID(i)<<tableChunkBits | PID(j*64+bits.TrailingZeros64(word)))
				}
			}
		})
	}
}
