package tree

import (
	"runtime"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/pagecache"
)

// A blind update puts a delta on a leaf that is not in memory, whose fences are
// therefore unknown. That it is the right leaf follows from its parent:
//
//	1  view the parent; nobody owns it; its child for the key is the leaf
//	2  view the leaf; it is absent
//	3  view the parent again; nobody owns it, and it has not changed
//	4  append to the leaf as viewed in 2: the compare-and-swap decides
//
// A split of the leaf posts its separators in the record of the split, and holds
// the parent's writer bit from before the leaf's publication until after the
// parent's (T2). So if the leaf was split before 2, then either the separators were
// in the parent at 1, or its bit was set or its slot changed by 3. If it is split
// after 2, the compare-and-swap fails. And a parent that is itself split changes.

// locateToAdd is locate for an addition: if it can be made blindly, p.absent is
// the leaf and p.view its View. Inner nodes are loaded, and a leaf only if it
// cannot be routed to.
func (t *Tree) locateToAdd(from PID, s *seek, a *addition) (epoch.Guard, place, error) {
	if !a.blind() || halfDoneHook != nil {
		return t.locate(from, s, 0)
	}
	for try := 0; try < routeTriesMax; {
		g := t.cache.Pin()
		p, err := t.descend(g, from, s, 0)
		if err == nil && (p.absent == 0 || t.routed(g, &p)) {
			return g, p, nil
		}
		g.Unpin()
		switch {
		case err != nil:
			return g, p, err
		case p.absent != from && p.level != 0:
			if err := t.load(p.absent, false); err != nil {
				return g, p, err
			}
		default:
			// It was reached from the left, or its parent is being changed, which takes
			// microseconds.
			from = 0
			try++
			runtime.Gosched()
		}
	}
	return t.locate(from, s, 0)
}

// routed reports whether the absent page is known to be the leaf.
func (t *Tree) routed(g epoch.Guard, p *place) bool {
	if p.above.PID() == 0 || p.above.Owned() || p.view.Owned() {
		return false
	}
	yield(yieldBlindParent)
	now, err := t.cache.View(g, p.above.PID())
	yield(yieldBlindRouted)
	return err == nil && !now.Owned() && now.Key() == p.above.Key()
}

// tendBlind follows a blind update.
func (t *Tree) tendBlind(pid PID, r pagecache.Result) {
	paths.Hit(paths.BlindUpdate)
	t.metrics.blind.Add(1)
	t.tendScattered(pid, r.Reads, r.Logged)
}

// blindNodes is how many nodes the fragments of an absent leaf may amount to before it
// is read: it may have grown, and be due to be split.
const blindNodes = 4

// tendScattered follows an update of an absent leaf with so many fragments, of so many
// bytes together. Too many places are a matter for the background. A leaf that is too
// long is read and folded here: it may be due to be split, and merged it must fit one
// record, or it cannot be written any more.
func (t *Tree) tendScattered(pid PID, places, bytes int) {
	most := t.cache.PlacesMax()
	switch {
	case places >= 2*most || bytes > min(blindNodes*t.options.MaxNodeBytes, t.cache.MaxFragment()/2):
		t.loadAndTend(pid)
	case places >= most && (places-most)%mergeSoonEvery == 0:
		t.cache.MergeSoon(pid)
	}
}

// mergeSoonEvery is after how many more updates a page that was to be merged is
// named again: it may have been forgotten.
const mergeSoonEvery = 4

// tendUnread follows a commit that wrote to a leaf which was not in memory.
func (t *Tree) tendUnread(pid PID) {
	g := t.cache.Pin()
	v, err := t.cache.View(g, pid)
	places, inLog := 0, 0
	if err == nil {
		inLog, places = v.LogBytes()
	}
	g.Unpin()
	t.metrics.blind.Add(1)
	t.tendScattered(pid, places, inLog)
}

func (t *Tree) loadAndTend(pid PID) {
	if err := t.cache.Load(pid); err != nil {
		t.metrics.tendErrors.Add(1)
		return
	}
	t.tend(pid) // it is folded, which says nothing of its size
}
