package tree

import (
	"bytes"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
)

// finish posts the separator right of page pid, from which a traversal had to go
// right: its split is being installed, or somebody has left it half done. It is
// best effort and waits for nobody: the tree is whole without.
func (t *Tree) finish(pid PID) {
	if pid == 0 || t.options.Cache.ReadOnly {
		return
	}
	g := t.cache.Pin()
	v, err := t.cache.View(g, pid)
	var level int
	var s separator
	if err == nil && v.Resident() && !v.Owned() {
		if n, err := asNode(v.Base()); err == nil && !n.isLast() {
			level, s = n.level(), separator{bytes.Clone(n.hi()), n.right()}
		}
	}
	g.Unpin()
	if s.pid == 0 {
		return
	}
	if err := t.postLate(pid, level+1, s); err != nil {
		t.metrics.tendErrors.Add(1)
	}
}

// postLate adds a separator to the node of the level, if it is not there and still
// says where the right sibling of page left begins. It leaves a node that somebody
// owns alone: that is a split which posts its own, or a join.
//
// The parent is viewed first and the left page second. If they had been joined
// before the first view, the second shows it; if they are joined after, the parent's
// compare-and-swap fails.
func (t *Tree) postLate(left PID, level int, s separator) error {
	g, p, err := t.locate(0, &seek{key: s.key}, level)
	if err != nil {
		return err
	}
	defer func() { g.Unpin() }()
	if p.node == nil || p.view.Owned() || hasSeparator(&p, s.key) || !t.stillLeftOf(g, left, s) {
		return nil
	}
	paths.Hit(paths.FinishSplit)
	t.metrics.finished.Add(1)
	r, err := t.cache.Append(g, p.view, appendOne(nil, kindInnerOne, 0, s.key, le.AppendUint64(nil, uint64(s.pid))), 0)
	if err == nil && (r.Deltas >= innerDeltas || r.Size > t.options.MaxNodeBytes) {
		pid := p.view.PID()
		g.Unpin()
		t.tend(pid)
		g = t.cache.Pin()
	}
	return err
}

// stillLeftOf reports whether the right sibling of page left is as s says.
func (t *Tree) stillLeftOf(g epoch.Guard, left PID, s separator) bool {
	v, err := t.cache.View(g, left)
	if err != nil || !v.Resident() {
		return false
	}
	n, err := asNode(v.Base())
	return err == nil && !n.isLast() && n.right() == s.pid && bytes.Equal(n.hi(), s.key)
}

func hasSeparator(p *place, key []byte) bool {
	if _, equal := p.node.search(key); equal {
		return true
	}
	for d := p.view.Newest(); d.Valid(); d = d.Older() {
		if x, err := asDelta(d.Data()); err == nil {
			if _, has, _ := x.find(key); has {
				return true
			}
		}
	}
	return false
}
