package pagecache

import (
	"sync/atomic"
	"unsafe"

	"github.com/pulkdb/db/internal/arena"
)

// A block is a run of arena memory from which the deltas of one page are
// carved, so that a chain lies in a few neighbouring cache lines: walking 24
// deltas that lie apart costs as much as the rest of a look-up.
//
// Whoever sees the page's head may carve from the head's block with one atomic
// add; what it carved is its own until it publishes it. Space carved by a writer
// whose CAS then fails is lost until the page is consolidated. A block is retired
// by whoever replaces the chain (P3).
type blockHeader struct {
	used  atomic.Uint32 // bytes, header included; may exceed size
	size  uint32        // bytes
	older uint64        // reference of the page's previous block, or 0
}

const (
	blockHeaderBytes = int(unsafe.Sizeof(blockHeader{}))
	blockBytesMin    = 512
	blockBytesMax    = 4096
)

func align16(n int) int { return (n + 15) &^ 15 }

// newBlock allocates a block that holds at least n bytes and hints at growth:
// it doubles with each block of the page.
func (c *Cache) newBlock(n int, older uint64, olderBytes int) (arena.Ref, *blockHeader) {
	size := min(max(2*olderBytes, blockBytesMin), blockBytesMax)
	size = max(size, n+blockHeaderBytes)
	ref := c.arena.AllocAs(size, memoryDeltas)
	b := (*blockHeader)(c.arena.Pointer(ref))
	b.used.Store(uint32(blockHeaderBytes))
	b.size = uint32(min(c.arena.Size(ref), 1<<31))
	b.older = older
	return ref, b
}

// carve takes n bytes (a multiple of 16) of b, if it has them.
func (b *blockHeader) carve(n int) (offset int, ok bool) {
	if int(b.used.Load())+n > int(b.size) {
		return 0, false
	}
	end := int(b.used.Add(uint32(n)))
	return end - n, end <= int(b.size)
}

// blockOf is the reference of the block that d, found at word, was carved from.
func blockOf(word uint64, d *deltaNode) uint64 { return word&slotRefMask - uint64(d.block) }

// A carving is a delta node that has been carved and not yet published.
type carving struct {
	ref   uint64
	node  *deltaNode
	fresh arena.Ref // the block it opened, or 0
}

// carveDelta carves a delta with the given payload on top of head. It sets all
// but cell and position.
func (c *Cache) carveDelta(head uint64, payload []byte, hint uint16) carving {
	n := align16(deltaHeaderBytes + len(payload))
	top := c.headerAt(head)
	older, olderBytes := uint64(0), 0
	bottom, count, bytes := head&slotRefMask, uint32(0), uint32(0)
	var blk, offset = uint64(0), 0
	var fresh arena.Ref
	if top.kind == nodeDelta {
		d := c.deltaAt(head)
		bottom, count, bytes = d.bottom, d.count, d.bytes
		older = blockOf(head, d)
		b := (*blockHeader)(c.arena.Pointer(arena.Ref(older)))
		if at, ok := b.carve(n); ok {
			blk, offset = older, at
		}
		olderBytes = int(b.size)
	}
	if blk == 0 {
		ref, b := c.newBlock(n, older, olderBytes)
		offset, _ = b.carve(n)
		blk, fresh = uint64(ref), ref
	}
	ref := blk + uint64(offset)
	d := c.deltaIn(blk, offset)
	*(*header)(unsafe.Pointer(d)) = header{kind: nodeDelta, hint: hint, length: uint32(len(payload)), version: top.version + 1}
	d.older, d.bottom = head&slotRefMask, bottom
	d.block = uint32(offset)
	d.count, d.bytes = count+1, bytes+uint32(len(payload))
	copy(d.payload(), payload)
	return carving{ref: ref, node: d, fresh: fresh}
}

func (c *Cache) deltaIn(blk uint64, offset int) *deltaNode {
	return (*deltaNode)(unsafe.Add(c.arena.Pointer(arena.Ref(blk)), offset))
}

// drop gives back what was carved and never published.
func (k carving) drop(c *Cache) {
	if k.fresh != 0 {
		c.arena.FreeAs(k.fresh, memoryDeltas)
	}
}
