package pagecache

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/log"
)

// PID names a page. The zero PID names none.
type PID = log.PID

// LSN is a position in the log.
type LSN = log.LSN

const (
	tableChunkBits  = 12
	tableChunkSlots = 1 << tableChunkBits
	// maxPIDs bounds what a damaged file can make the table grow to.
	maxPIDs = 1 << 40
)

type tableChunk [tableChunkSlots]atomic.Uint64

// A table is the mapping table: it names, for each PID, the newest node of the
// page's chain. It is the only place where a page changes.
//
// A slot is in one of these states:
//
//	0            the PID was never used; the allocator owns the slot
//	free node    the PID is free; the allocator owns the slot once no guard that
//	             saw the page remains and the record that freed it is durable
//	head         the PID is in use: a delta, a base or an absent node; what it
//	             reaches is immutable and may be read under a guard
//	head|writer  the same, and only the holder of the bit may change the slot
//
// This is race-free because:
//   - the compare-and-swap of a slot is the linearization point of every change
//     of a page, and the holder of the writer bit is the only one whose
//     compare-and-swap from head|writer succeeds;
//   - a node is complete before it is published (P2), so who sees a head sees a
//     whole chain;
//   - only who replaced a chain retires it (P3), and a node's memory is not
//     reused while a guard from before its retirement remains, so a slot that
//     still holds a head's reference holds that very head.
//
// Whoever holds a replaced head reads the page as it stood at its load, and its
// own compare-and-swap fails.
type table struct {
	// Atomic. The list only grows; an element does not change.
	chunks atomic.Pointer[[]*tableChunk]

	// Immutable after Open.
	arena *arena.Arena

	grow sync.Mutex // one grower at a time; readers never take it
	refs []arena.Ref
}

func newTable(a *arena.Arena) *table {
	t := &table{arena: a}
	t.chunks.Store(&[]*tableChunk{})
	return t
}

// slot returns the slot of pid, or nil if the table does not reach that far.
func (t *table) slot(pid PID) *atomic.Uint64 {
	chunks := *t.chunks.Load()
	i := uint64(pid) >> tableChunkBits
	if i >= uint64(len(chunks)) {
		return nil
	}
	return &chunks[i][uint64(pid)&(tableChunkSlots-1)]
}

// reach makes the table large enough for pid and returns its slot.
func (t *table) reach(pid PID) *atomic.Uint64 {
	if s := t.slot(pid); s != nil {
		return s
	}
	t.grow.Lock()
	defer t.grow.Unlock()
	chunks := *t.chunks.Load()
	for uint64(len(chunks)) <= uint64(pid)>>tableChunkBits {
		ref := t.arena.AllocAs(int(unsafe.Sizeof(tableChunk{})), memoryTable)
		chunk := (*tableChunk)(t.arena.Pointer(ref))
		for i := range chunk {
			chunk[i].Store(0)
		}
		t.refs = append(t.refs, ref)
		// In place where there is room: who has loaded the shorter list does
		// not look behind its end.
		chunks = append(chunks, chunk)
	}
	t.chunks.Store(&chunks)
	return t.slot(pid)
}
