package tree

import "bytes"

// Where to cut a node that is too large.

const (
	innerChildrenMin = 3  // of an inner node that a split makes; so the tree's height is bounded whatever the keys
	fillAppend       = 93 // percent of a node that a load in key order fills
	fillSplit        = 85 // percent that a split into many fills at most
)

// cuts returns the entries before which to cut n, the node just merged; none if
// it stays whole, as a leaf of one key does, but see isolated. The pieces have at least one key,
// of an inner node innerChildrenMin children, so that every split makes progress.
//
// Where the changes went tells what comes next: if nearly all went above (below)
// the node's keys, as in a load in (descending) key order, full nodes are cut off
// on the other side.
func (m *merger) cuts(n node, nodeBytesMax int) []int {
	groups := groupStarts(n)
	var cuts []int
	switch {
	case m.changedKeys > 1 && m.after*4 >= m.changedKeys*3:
		cuts = cutAscending(n, groups, nodeBytesMax*fillAppend/100)
	case m.changedKeys > 1 && m.before*4 >= m.changedKeys*3:
		cuts = cutDescending(n, groups, nodeBytesMax*fillAppend/100)
	}
	if len(cuts) > 0 {
		return cuts
	}
	return cutEvenly(n, groups, nodeBytesMax*fillSplit/100)
}

// isolateNodes is how many nodes, or what part of the log's largest fragment, the
// versions of a key may take before it has a leaf of its own. A page that exceeds the
// largest fragment cannot be split any more, and no other key must be caught in it.
const (
	isolateNodes = 16
	isolateShare = 4
)

func (t *Tree) isolateBytes() int {
	return min(isolateNodes*t.options.MaxNodeBytes, t.cache.MaxFragment()/isolateShare)
}

// isolated returns the cuts that leave to the one key of a leaf a leaf of its own: what
// lies below the key and what lies above it, of which nothing is there yet, become
// others.
func isolated(n node) (cuts []int) {
	key := n.appendKey(nil, 0)
	if bytes.Compare(n.lo(), key) < 0 {
		cuts = append(cuts, 0)
	}
	next := append(key, 0)
	if len(next) <= MaxKeyBytes && (n.isLast() || bytes.Compare(next, n.hi()) < 0) {
		cuts = append(cuts, n.count())
	}
	return cuts
}

// groupStarts returns the first entry of each key, and the count at the end.
func groupStarts(n node) []int {
	groups := make([]int, 0, n.count()+1)
	for i := 0; i < n.count(); i = n.group(i) {
		groups = append(groups, i)
	}
	return append(groups, n.count())
}

// spanBytes is what entries [from, to) take in a node.
func spanBytes(n node, from, to int) int { return n.offset(to) - n.offset(from) + 10*(to-from) }

func groupsMin(n node) int {
	if n.isLeaf() {
		return 1
	}
	return innerChildrenMin
}

func cutAscending(n node, groups []int, pieceBytes int) []int {
	var cuts []int
	least, last := groupsMin(n), 0
	for g := least; g+least < len(groups); g++ {
		if g-last >= least && spanBytes(n, groups[last], groups[g+1])+headerBytes > pieceBytes {
			cuts = append(cuts, groups[g])
			last = g
		}
	}
	return cuts
}

func cutDescending(n node, groups []int, pieceBytes int) []int {
	var cuts []int
	least, last := groupsMin(n), len(groups)-1
	for g := len(groups) - 1 - least; g >= least; g-- {
		if last-g >= least && spanBytes(n, groups[g-1], groups[last])+headerBytes > pieceBytes {
			cuts = append(cuts, groups[g])
			last = g
		}
	}
	for i, j := 0, len(cuts)-1; i < j; i, j = i+1, j-1 {
		cuts[i], cuts[j] = cuts[j], cuts[i]
	}
	return cuts
}

// cutEvenly makes at least two pieces of about the same size.
func cutEvenly(n node, groups []int, pieceBytes int) []int {
	total := spanBytes(n, 0, n.count())
	pieces := max(2, (total+pieceBytes-1)/pieceBytes)
	var cuts []int
	least, last := groupsMin(n), 0
	for g := least; g+least < len(groups); g++ {
		done := spanBytes(n, 0, groups[g])
		next := spanBytes(n, groups[g], groups[g+1])
		goal := total * (len(cuts) + 1) / pieces
		if g-last >= least && len(cuts) < pieces-1 && done+next/2 >= goal {
			cuts = append(cuts, groups[g])
			last = g
		}
	}
	if len(cuts) == 0 && len(groups)-1 >= 2*least {
		cuts = append(cuts, groups[len(groups)-1-least])
	}
	return cuts
}
