package tree

import "encoding/binary"

// Every page and delta of the tree starts with a kind byte.
//
// These numbers are on disk. 0 is invalid.
const (
	kindLeaf        = 1 // base: keys and values
	kindInner       = 2 // base: separators and children
	kindChunk       = 3 // base: a part of a large value
	kindLeafOne     = 4 // delta: one change of a leaf
	kindLeafRun     = 5 // delta: a sorted run of changes of a leaf
	kindInnerOne    = 6 // delta: one separator
	kindInnerRun    = 7 // delta: a sorted run of separators
	kindInnerRemove = 8 // reserved: separators to remove (joins); refused
	kindLeafErase   = 9 // delta: the keys of a range of a leaf are deleted

	kindDrafts     = 16 // base: names the pages of drafts, see draft.go
	kindDraft      = 17 // base: names the chunks of a large value that is being written
	kindListAdd    = 18 // delta: a page is added to one of those
	kindListRemove = 19 // delta: and removed
)

// A node is a header, the key prefix, three arrays and the entries. Integers
// are little-endian. The same bytes serve in memory and on disk.
//
//	Offset  Size  Field       Meaning
//	     0     1  kind        kindLeaf or kindInner
//	     1     1  flags       nodeRoot, nodeWide, nodeLast, nodeVersioned; other bits are refused
//	     2     1  level       0 for a leaf
//	     3     1  -           0
//	     4     4  count       entries, each version of a key counted
//	     8     4  size        bytes of the node
//	    12     4  prefix      bytes of the key prefix that is cut off
//	    16     4  lo          bytes of the low fence
//	    20     4  hi          bytes of the high fence; 0 if nodeLast
//	    24     4  tree        the tree; 0 for now
//	    28     4  -           0
//	    32     8  right       PID of the right sibling; 0 if nodeLast
//	    40     8  hi head     head of the high fence; all ones if nodeLast
//	    48     8  generation  of the root; 0 unless nodeRoot
//	    56     8  newest      newest stamp of any version ever merged into the node
//	    64     8  folded      reserved: stamp up to which range deletions are folded in; 0
//	    72     p  prefix      the key prefix, padded with zeros to a multiple of 8
//	          8n  heads       per entry: head of the key's suffix
//	       2n|4n  offsets     per entry: where it starts in the node (4 bytes if nodeWide)
//	              lo, hi      the fences
//	              entries     one after another, the last one ends the node
//
// The suffix of a key is what follows the prefix. Its head is its first 8
// bytes, padded with zeros, read as a big-endian number; so heads compare as
// suffixes do, but for ties. An entry does not repeat the head:
//
//	Offset  Size  Field   Meaning
//	     0     1  flags   entryTombstone, entryStamp, entryIndirect, entryOperand, entryOlder; other bits are refused
//	     1   1-3  suffix  bytes of the suffix, a uvarint
//	         0|8  stamp   if entryStamp; without it every reader sees the version
//	              tail    the suffix from its ninth byte on
//	              value   to the end of the entry
//
// In an inner node the value is the child's PID, 8 bytes, and the first entry's
// key is the low fence. In a leaf the versions of a key stand newest first, and
// all but the first carry entryOlder.
//
// Example: a root leaf, generation 1, with the one entry "hi" -> "yo";
// TestNodeExample fixes these bytes:
//
//	01 05 00 00 01000000 5e000000 02000000 00000000 00000000 00000000 00000000
//	0000000000000000 ffffffffffffffff 0100000000000000 0000000000000000 0000000000000000
//	6869000000000000 0000000000000000 5a00 00 00 796f
const (
	headerBytes = 72

	nodeRoot      = 1 << 0 // the tree's root, or what was it before a growth that replaced it
	nodeWide      = 1 << 1 // 4-byte offsets
	nodeLast      = 1 << 2 // the high fence is +infinity; there is no right sibling
	nodeVersioned = 1 << 3 // some entry has a flag other than entryIndirect

	nodeFlags = nodeRoot | nodeWide | nodeLast | nodeVersioned

	entryTombstone = 1 << 0 // the key is deleted
	entryStamp     = 1 << 1 // a stamp follows
	entryIndirect  = 1 << 2 // the value is a list of chunks, see value.go
	entryOperand   = 1 << 3 // the value is a list of merge operands, see operand.go
	entryOlder     = 1 << 4 // an older version of the key before it

	entryFlags  = entryTombstone | entryStamp | entryIndirect | entryOperand | entryOlder
	changeFlags = entryTombstone | entryIndirect | entryOperand // those that a delta may carry
)

// A delta is one change, a sorted run of them, or an erasure, for which see
// erase.go. It has no stamps: the fragment's covers all of it.
//
//	Offset  Size  Field    Meaning
//	     0     1  kind     kindLeafOne or kindInnerOne
//	     1     1  flags    as in an entry: entryTombstone, entryIndirect, entryOperand
//	     2   1-3  key      bytes of the key, a uvarint
//	              key
//	              value    to the end of the delta
//
//	     0     1  kind     kindLeafRun or kindInnerRun
//	     1     1  flags    nodeWide: 4-byte offsets
//	     2     2  -        0
//	     4     4  count    changes, at least one
//	     8 2n|4n  offsets  per change: where it starts in the delta
//	              changes  flags, key bytes, key, value, as above; the last one ends the delta
//
// Example: the deletion of "k" is 04 01 01 6b; TestDeltaExample fixes it.
const runHeaderBytes = 8

// Limits of a single entry.
const (
	// MaxKeyBytes is the longest key.
	MaxKeyBytes = 64 << 10
	// MaxValueBytes is the longest value.
	MaxValueBytes = 1 << 30
)

var le = binary.LittleEndian

// headOf returns the first 8 bytes of suffix as a big-endian number, padded
// with zeros.
func headOf(suffix []byte) uint64 {
	if len(suffix) >= 8 {
		return binary.BigEndian.Uint64(suffix)
	}
	// The bytes in three overlapping loads at most.
	n := uint(len(suffix))
	switch {
	case n >= 4:
		hi := uint64(binary.BigEndian.Uint32(suffix))
		lo := uint64(binary.BigEndian.Uint32(suffix[n-4:]))
		return hi<<32 | lo<<(64-8*n)
	case n >= 2:
		hi := uint64(binary.BigEndian.Uint16(suffix))
		return hi<<48 | uint64(suffix[n-1])<<(64-8*n)
	case n == 1:
		return uint64(suffix[0]) << 56
	}
	return 0
}

// appendHead appends the first n bytes that head stands for; n is at most 8.
func appendHead(dst []byte, head uint64, n int) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], head)
	return append(dst, b[:n]...)
}

// pad8 rounds n up to a multiple of 8.
func pad8(n int) int { return (n + 7) &^ 7 }

// uvarintBytes is the length of n as a uvarint.
func uvarintBytes(n int) int {
	size := 1
	for n >= 0x80 {
		n >>= 7
		size++
	}
	return size
}

// uvarint decodes a length; size is 0 if b does not hold one or it is absurd.
func uvarint(b []byte) (n, size int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int(b[0]), 1
	}
	x, size := binary.Uvarint(b)
	if size <= 0 || x > 1<<31 || uvarintBytes(int(x)) != size {
		return 0, 0
	}
	return int(x), size
}
