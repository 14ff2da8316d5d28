package pagecache

import (
	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/epoch"
)

// Page memory is accounted by what it is for. An object changes its kind once, when
// it is retired: what waits for readers to leave is no use to the evictor, who must
// not evict more because of it.
const (
	memoryTable     arena.Kind = iota // chunks of the mapping table
	memoryBases                       // with the positions that a base keeps
	memoryDeltas                      // blocks
	memoryPositions                   // nodes of pages that are evicted or free
	memoryCells                       // of Updates under way
	memoryRetired                     // waits for guards
)

// kindOf is the kind of a node that has memory of its own.
func kindOf(k nodeKind) arena.Kind {
	if k == nodeBase {
		return memoryBases
	}
	return memoryPositions
}

// dropNode frees a base, an absent or a free node that nobody can have seen.
func (c *Cache) dropNode(ref arena.Ref) {
	c.arena.FreeAs(ref, kindOf(c.headerAt(uint64(ref)).kind))
}

// retireNode retires a base, an absent or a free node.
func (c *Cache) retireNode(g epoch.Guard, word uint64) {
	c.retire(g, word&slotRefMask, kindOf(c.headerAt(word).kind))
}

// retire hands memory over for reuse once no guard remains that may have seen it
// (P3).
func (c *Cache) retire(g epoch.Guard, ref uint64, kind arena.Kind) {
	c.arena.SetKind(arena.Ref(ref), kind, memoryRetired)
	c.epochs.Retire(g, ref)
}

// bufferBytes is the memory on the Go heap that counts towards CacheSize: the
// log's buffers, and those of loads under way.
func (c *Cache) bufferBytes() int64 { return c.log.BufferBytes() + c.loads.bytes.Load() }

// inUse is the memory that the evictor can influence, and what it has to leave room
// for; what is retired comes on top.
func (c *Cache) inUse() (inUse, retired int64) {
	used, retired := c.arena.UsedBut(memoryRetired)
	return used + min(c.bufferBytes(), c.bufferShare()), retired
}

// bufferShare is the most of CacheSize that buffers may take from pages: with very
// small caches the rest of them comes on top.
func (c *Cache) bufferShare() int64 { return c.options.CacheSize / 4 }
