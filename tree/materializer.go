package tree

import (
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// materializer is how the page cache folds and recognises the tree's pages.
type materializer struct {
	fold folder // of merge operands
	kept *keptLeaves
	thin *thinNodes
}

// Merge appends the node that the fragments amount to. A chunk page has nothing
// but a base.
func (x materializer) Merge(dst []byte, in *pagecache.Merging) ([]byte, error) {
	if !in.Base || len(in.Fragments) == 0 {
		return nil, fmt.Errorf("%w: merge without a base", ErrCorrupt)
	}
	base := in.Fragments[0].Data
	if len(in.Fragments) == 1 && isChunk(base) {
		return append(dst, base...), nil
	}
	if isList(base) {
		return mergeList(dst, in.Fragments)
	}
	n, err := asNode(base)
	if err != nil {
		return nil, err
	}
	m := newMerger()
	defer m.release()
	r := rule{moments: in.Moments, keepAll: in.KeepAll, free: m.freeInto(in), fold: x.fold}
	out, err := m.merge(dst, n, in.Fragments[1:], r)
	if err == nil && !in.Trial {
		merged := node(out[len(dst):])
		x.kept.note(in.PID, merged)
		x.thin.noteIf(in.PID, merged)
	}
	return out, err
}

// freeInto returns the same function each time: a fold makes no garbage.
func (m *merger) freeInto(in *pagecache.Merging) func(list []byte) {
	if m.freeing = in; m.free == nil {
		m.free = func(list []byte) { freeChunks(m.freeing, list) }
	}
	return m.free
}

func freeChunks(in *pagecache.Merging, list []byte) {
	r, ok := readChunks(list)
	for ok {
		var c chunk
		if c, ok = r.next(); ok {
			in.Free(c.pid, c.version)
		}
	}
}

// Recover reports the root: of all pages that were ever written as one, the
// highest generation wins (T5). And it reports the page of drafts, of which there
// is one.
func (materializer) Recover(base []byte) (pagecache.Recovery, bool) {
	if isList(base) {
		return pagecache.Recovery{Tree: draftsTree, Generation: 1}, base[0] == kindDrafts
	}
	n, err := asNode(base)
	if err != nil || !n.isRoot() {
		return pagecache.Recovery{}, false
	}
	return pagecache.Recovery{Tree: uint64(n.tree()), Generation: n.generation()}, true
}

// Keep asks that inner nodes be evicted last.
func (materializer) Keep(base []byte) bool { return len(base) > 0 && base[0] == kindInner }

func isChunk(base []byte) bool {
	return len(base) >= chunkHeaderBytes && [chunkHeaderBytes]byte(base) == chunkHeader
}

// isNode tells leaves and inner nodes from what else a page may hold.
func isNode(base []byte) bool {
	return len(base) >= headerBytes && (base[0] == kindLeaf || base[0] == kindInner)
}
