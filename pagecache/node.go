package pagecache

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/log"
)

// A node is one link of a page's chain in arena memory. The slot of the mapping
// table refers to the newest one:
//
//	delta -> delta -> base      resident
//	delta -> delta -> absent    the base, or more, is only in the log
//	free                        the PID is not in use
//
// Every field but the atomic ones is written before the node is published and
// never afterwards (P2), so whoever holds a guard reads it without
// synchronisation. Nodes are 16-byte aligned: the low four bits of a slot are
// free for flags.

type nodeKind uint8

const (
	nodeBase nodeKind = iota + 1
	nodeDelta
	nodeAbsent
	nodeFree
)

// Flags of a node.
const (
	// nodePartUnstamped: a fragment in the log carries no stamp because it
	// stands in an early part of a record group. While a read snapshot may need
	// that stamp the page is written merged before it is evicted.
	nodePartUnstamped = 1 << 0
	// nodeKeep: the materializer's owner asked that this page be evicted last.
	nodeKeep = 1 << 1
	// nodeRead: somebody waited for the page to be loaded, and it has not been written
	// merged since. Of bases only.
	nodeRead = 1 << 2
)

// header is what all nodes begin with.
type header struct {
	kind    nodeKind
	flags   uint8
	hint    uint16 // delta: the caller's hint
	length  uint32 // bytes of payload
	version uint64 // page version with this node on top
}

// A deltaNode is one update. It is carved from a block that belongs to the
// page; its payload follows it.
type deltaNode struct {
	header
	older  uint64 // reference of the next older node
	bottom uint64 // reference of the base or absent node that ends the chain
	cell   atomic.Uint64
	lsn    uint64
	size   uint32 // bytes in the log
	block  uint32 // bytes from the start of its block to this node
	count  uint32 // deltas in the chain, this one included
	bytes  uint32 // payload bytes of those deltas
}

// A bottomNode is a base, or the positions of an evicted one. Positions follow
// it, oldest first, then, aligned to 8 bytes, a base's payload. Of a page that is
// evicted, this is what stays in memory: 48 bytes, with one position.
type bottomNode struct {
	header
	stamp     uint64 // newest stamp in the page as of version
	mark      mark   // the evictor's
	positions uint32 // how many
}

// A freeNode keeps what a free PID must not forget: its version, and where the
// record stands that freed it.
type freeNode struct {
	header
	lsn  uint64
	size uint32
	_    uint32
}

const (
	deltaHeaderBytes  = int(unsafe.Sizeof(deltaNode{}))
	bottomHeaderBytes = int(unsafe.Sizeof(bottomNode{}))
	freeNodeBytes     = int(unsafe.Sizeof(freeNode{}))
	positionBytes     = 12
	maxPayload        = math.MaxInt32
)

// A commit cell tells when a delta became visible. It holds
//
//	0               published, not stamped: whoever meets it stamps it
//	stamp           visible to moments >= stamp
//	cellShared|ref  look into the batch's cell at ref
//
// and a batch's cell holds cellInstalling, cellReady or the stamp. Stamps
// therefore begin at firstStamp.
const (
	cellShared     = uint64(1) << 63
	cellInstalling = 0
	cellReady      = 1
	firstStamp     = 2
	batchCellBytes = 16
)

// slotWriter is the writer bit of a slot: while it is set only its holder
// changes the slot.
const (
	slotWriter  = uint64(1)
	slotRefMask = ^uint64(15)
)

func refOf(word uint64) arena.Ref { return arena.Ref(word & slotRefMask) }

// bytesAt returns n bytes of a node, from offset. None are taken of a node that
// ends there: a pointer behind an object is not a pointer to it.
func bytesAt(node unsafe.Pointer, offset, n int) []byte {
	if n == 0 {
		return []byte{}
	}
	return unsafe.Slice((*byte)(unsafe.Add(node, offset)), n)
}

func (d *deltaNode) payload() []byte {
	return bytesAt(unsafe.Pointer(d), deltaHeaderBytes, int(d.length))
}

func (d *deltaNode) position() log.Position {
	return log.Position{LSN: log.LSN(d.lsn), Size: d.size}
}

// payloadOffset is where the payload begins behind n positions.
func payloadOffset(n int) int { return bottomHeaderBytes + (n*positionBytes+7)&^7 }

func (b *bottomNode) payload() []byte {
	return bytesAt(unsafe.Pointer(b), payloadOffset(int(b.positions)), int(b.length))
}

func (b *bottomNode) positionArea() []byte {
	return bytesAt(unsafe.Pointer(b), bottomHeaderBytes, int(b.positions)*positionBytes)
}

func (b *bottomNode) position(i int) log.Position {
	return getPosition(b.positionArea()[i*positionBytes:])
}

func (b *bottomNode) setPosition(i int, p log.Position) {
	area := b.positionArea()[i*positionBytes:]
	binary.LittleEndian.PutUint64(area, uint64(p.LSN))
	binary.LittleEndian.PutUint32(area[8:], p.Size)
}

// appendPositions appends the bottom's positions, oldest first, to dst.
func (b *bottomNode) appendPositions(dst []log.Position) []log.Position {
	area := b.positionArea()
	for ; len(area) > 0; area = area[positionBytes:] {
		dst = append(dst, getPosition(area))
	}
	return dst
}

func getPosition(area []byte) log.Position {
	return log.Position{
		LSN:  log.LSN(binary.LittleEndian.Uint64(area)),
		Size: binary.LittleEndian.Uint32(area[8:]),
	}
}

func (n *freeNode) position() log.Position {
	return log.Position{LSN: log.LSN(n.lsn), Size: n.size}
}

func (c *Cache) headerAt(word uint64) *header {
	return (*header)(c.arena.Pointer(refOf(word)))
}

func (c *Cache) deltaAt(word uint64) *deltaNode {
	return (*deltaNode)(c.arena.Pointer(refOf(word)))
}

func (c *Cache) bottomAt(word uint64) *bottomNode {
	return (*bottomNode)(c.arena.Pointer(refOf(word)))
}

func (c *Cache) freeAt(word uint64) *freeNode {
	return (*freeNode)(c.arena.Pointer(refOf(word)))
}

// newBottom allocates a base (data not nil) or an absent node with room for n
// positions. The caller owns it until it is published.
func (c *Cache) newBottom(kind nodeKind, version, stamp uint64, n int, data []byte) (arena.Ref, *bottomNode) {
	offset := payloadOffset(n)
	ref := c.arena.AllocAs(offset+len(data), kindOf(kind))
	b := (*bottomNode)(c.arena.Pointer(ref))
	*(*header)(unsafe.Pointer(b)) = header{kind: kind, length: uint32(len(data)), version: version}
	b.stamp = stamp
	b.mark.clear()
	b.positions = uint32(n)
	copy(b.payload(), data)
	return ref, b
}

// newFree allocates the node of a free PID.
func (c *Cache) newFree(version uint64, p log.Position) arena.Ref {
	ref := c.arena.AllocAs(freeNodeBytes, memoryPositions)
	n := (*freeNode)(c.arena.Pointer(ref))
	n.header = header{kind: nodeFree, version: version}
	n.lsn, n.size = uint64(p.LSN), p.Size
	return ref
}
