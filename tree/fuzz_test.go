package tree

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/pagecache"
)

// exampleNodes are nodes of every kind.
func exampleNodes(t testing.TB) []node {
	versions := rule{moments: []uint64{1, 3}, keepAll: true}
	return []node{
		emptyLeaf(),
		leafOf(t, "a", "1", "b", "2", "prefix one", "x", "prefix two", "y"),
		mergeInto(t, leafOf(t, "k1", "1", "k2", "2"), versions,
			pagecache.Fragment{Data: appendOne(nil, kindLeafOne, 0, []byte("k1"), []byte("3")), Stamp: 2},
			pagecache.Fragment{Data: appendOne(nil, kindLeafOne, entryTombstone, []byte("k2"), nil), Stamp: 4},
			pagecache.Fragment{Data: appendOne(nil, kindLeafOne, entryOperand, []byte("k3"), appendOperands(nil, [][]byte{[]byte("op")})), Stamp: 5},
			pagecache.Fragment{Data: appendOne(nil, kindLeafOne, entryIndirect, []byte("k4"), appendChunks(nil, 300, 200, []chunk{{7, 1}, {8, 2}})), Stamp: 6}),
		node(appendInner(nil, meta{kind: kindInner, level: 1, last: true}, []separator{{nil, 7}, {[]byte("m"), 8}})),
	}
}

// exampleDeltas are deltas of every kind.
func exampleDeltas() [][]byte {
	pid := le.AppendUint64(nil, 9)
	return [][]byte{
		appendOne(nil, kindLeafOne, 0, []byte("b"), []byte("new")),
		appendOne(nil, kindLeafOne, entryTombstone, []byte("a"), nil),
		appendOne(nil, kindLeafOne, entryOperand, []byte("k3"), appendOperands(nil, [][]byte{[]byte("x"), {}})),
		appendRun(nil, kindLeafRun, []change{{key: []byte("a")}, {key: []byte("b"), value: []byte("x")}}),
		appendErase(nil, []byte("a"), []byte("k2"), false, false),
		appendErase(nil, nil, nil, true, true),
		appendOne(nil, kindInnerOne, 0, []byte("t"), pid),
		appendRun(nil, kindInnerRun, []change{{key: []byte("a"), value: pid}, {key: []byte("mm"), value: pid}}),
	}
}

// FuzzMerge folds two deltas onto a node. What each of them may say is arbitrary;
// if they are valid, and their keys within the node's fences, so is the result,
// and it has no key that none of them has.
func FuzzMerge(f *testing.F) {
	for _, n := range exampleNodes(f) {
		for i, d := range exampleDeltas() {
			f.Add([]byte(n), d, exampleDeltas()[(i+3)%8], uint64(4))
		}
	}
	f.Fuzz(func(t *testing.T, base, one, two []byte, moment uint64) {
		n := node(base)
		if n.validate() != nil || delta(one).validate() != nil || delta(two).validate() != nil || n.newest() > 1<<62 {
			return
		}
		in := &pagecache.Merging{Base: true, Trial: true, Moments: []uint64{moment}, KeepAll: moment%2 == 1, Fragments: []pagecache.Fragment{
			{Data: base}, {Data: one, Stamp: n.newest() + 1}, {Data: two, Stamp: n.newest() + 2},
		}}
		kinds := delta(one).isInner() != n.isLeaf() && delta(two).isInner() != n.isLeaf()
		out, err := materializer{}.Merge([]byte("dst"), in)
		if !kinds {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		require.NoError(t, err)
		merged := node(out[len("dst"):])
		if within(n, one) && within(n, two) {
			require.NoError(t, merged.validate())
		}
		for i := range merged.count() {
			key := merged.appendKey(nil, i)
			_, known := n.search(key)
			for _, d := range []delta{one, two} {
				_, found, _ := d.find(key)
				known = known || found
			}
			require.True(t, known, "%q", key)
		}
	})
}

// within reports whether a valid delta's keys lie within the fences.
func within(n node, d delta) bool {
	for i := range d.count() {
		if c, _ := d.at(i); !n.contains(c.key) {
			return false
		}
	}
	return true
}

// FuzzDecodeList decodes and changes list pages: those of drafts.
func FuzzDecodeList(f *testing.F) {
	c := chunk{7, 1}
	f.Add(appendList(nil, kindDrafts, nil), appendListChange(nil, kindListAdd, c))
	f.Add(appendList(nil, kindDraft, []chunk{{1 << 40, 3}, c}), appendListChange(nil, kindListRemove, c))
	f.Fuzz(func(t *testing.T, base, change []byte) {
		if !isList(base) {
			return
		}
		out, err := mergeList(nil, []pagecache.Fragment{{Data: base}, {Data: change}})
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		items, err := decodeList(base, base[0])
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			require.Nil(t, out)
			return
		}
		require.Equal(t, base, appendList(nil, base[0], items))
		before := len(items)
		if items, err = changeList(items, change); err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		require.Equal(t, 1, max(before-len(items), len(items)-before))
		require.Equal(t, out, appendList(nil, base[0], items))
	})
}

// FuzzRecoveryState asks what recovery asks of every base in the log, whatever
// is in it.
func FuzzRecoveryState(f *testing.F) {
	for _, n := range exampleNodes(f) {
		f.Add([]byte(n))
	}
	f.Add(appendList(nil, kindDrafts, nil))
	f.Add(chunkHeader[:])
	f.Fuzz(func(t *testing.T, base []byte) {
		x := materializer{}
		r, ok := x.Recover(base)
		x.Keep(base)
		if ok && r.Tree != draftsTree {
			require.True(t, node(base).isRoot())
			require.Equal(t, node(base).generation(), r.Generation)
		}
	})
}
