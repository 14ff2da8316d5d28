package tree

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db/pagecache"
)

func emptyLeaf() node {
	return appendEmpty(nil, meta{kind: kindLeaf, last: true, root: true, generation: 1})
}

// leafOf builds a leaf of keys and values by merging one run into an empty one.
func leafOf(t testing.TB, pairs ...string) node {
	var changes []change
	for i := 0; i < len(pairs); i += 2 {
		changes = append(changes, change{key: []byte(pairs[i]), value: []byte(pairs[i+1])})
	}
	return mergeInto(t, emptyLeaf(), rule{}, pagecache.Fragment{Data: appendRun(nil, kindLeafRun, changes), Stamp: 1})
}

func mergeInto(t testing.TB, base node, r rule, deltas ...pagecache.Fragment) node {
	m := newMerger()
	defer m.release()
	out, err := m.merge(nil, base, deltas, r)
	require.NoError(t, err)
	n := node(out)
	require.NoError(t, n.validate(), "%v", n)
	return n
}

func unspace(s string) string { return strings.Join(strings.Fields(s), "") }

// The example of format.go.
func TestNodeExample(t *testing.T) {
	n := leafOf(t, "hi", "yo")
	le.PutUint64(n[56:], 0)
	want := unspace(`01 05 00 00 01000000 5e000000 02000000 00000000 00000000 00000000 00000000
		0000000000000000 ffffffffffffffff 0100000000000000 0000000000000000 0000000000000000
		6869000000000000 0000000000000000 5a00 00 00 796f`)
	require.Equal(t, want, hex.EncodeToString(n))
}

func TestDeltaExample(t *testing.T) {
	require.Equal(t, "0401016b", hex.EncodeToString(appendOne(nil, kindLeafOne, entryTombstone, []byte("k"), nil)))
}

func TestSearch(t *testing.T) {
	keys := []string{"", "\x00", "\x00\x00", "a", "a\x00", "aaaaaaaa", "aaaaaaaa\x00", "aaaaaaaaa", "aaaaaaaab", "aaaaaaaabbbbbbbbbb", "b", "\xff\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\xff\x01"}
	var pairs []string
	for _, k := range keys {
		pairs = append(pairs, k, "v"+k)
	}
	n := leafOf(t, pairs...)
	for i, k := range keys {
		at, equal := n.search([]byte(k))
		require.True(t, equal, "%q", k)
		require.Equal(t, i, at, "%q", k)
		require.Equal(t, "v"+k, string(n.entry(at).value))
	}
}

// Keys with few distinct bytes, so that heads tie and prefixes are shared.
func genKey() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 30).Draw(t, "long") == 0 {
			return strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "n"))
		}
		prefix := rapid.SampledFrom([]string{"", "p", "pppppppp", "ppppppppp"}).Draw(t, "prefix")
		return prefix + rapid.StringOfN(rapid.SampledFrom([]rune("\x00ab")), 0, 11, -1).Draw(t, "key")
	})
}

// A modelVersion is what the model of a merge keeps of each write.
type modelVersion struct {
	value string
	dead  bool
	stamp uint64
}

// mergeModel is a node beside the full history of each of its keys.
type mergeModel struct {
	n       node
	history map[string][]modelVersion // oldest first
	open    []uint64
	clock   uint64
}

// at says what a reader at the moment sees.
func (m *mergeModel) at(key string, moment uint64) (string, bool) {
	versions := m.history[key]
	for i := len(versions) - 1; i >= 0; i-- {
		if v := versions[i]; v.stamp <= moment {
			return v.value, !v.dead
		}
	}
	return "", false
}

func (m *mergeModel) check(t *rapid.T) {
	require.NoError(t, m.n.validate(), "%v", m.n)
	for key := range m.history {
		for _, moment := range append(slices.Clone(m.open), m.clock) {
			want, ok := m.at(key, moment)
			got, found := readBase(m.n, []byte(key), moment)
			require.Equal(t, ok, found, "%q at %d in %v", key, moment, m.n)
			if ok {
				require.Equal(t, want, string(got.value), "%q at %d", key, moment)
			}
		}
	}
}

// Merges of random runs under random open moments against full histories.
func TestMergeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &mergeModel{n: emptyLeaf(), history: map[string][]modelVersion{}, clock: 2}
		for round := range rapid.IntRange(1, 8).Draw(t, "rounds") {
			var deltas []pagecache.Fragment
			for range rapid.IntRange(0, 5).Draw(t, "deltas") {
				if rapid.Bool().Draw(t, "open") {
					m.open = append(m.open, m.clock)
					m.clock++
				}
				deltas = append(deltas, m.drawDelta(t, round))
			}
			if len(m.open) > 0 && rapid.Bool().Draw(t, "close") {
				i := rapid.IntRange(0, len(m.open)-1).Draw(t, "which")
				m.open = slices.Delete(m.open, i, i+1)
			}
			r := rule{moments: slices.Clone(m.open), keepAll: rapid.IntRange(0, 4).Draw(t, "keepAll") == 0}
			mg := newMerger()
			out, err := mg.merge(nil, m.n, deltas, r)
			mg.release()
			require.NoError(t, err)
			m.n = node(out)
			m.check(t)
			if len(m.open) == 0 && !r.keepAll {
				require.False(t, m.n.versioned(), "%v", m.n)
			}
			m.checkVisible(t)
			m.checkRange(t)
		}
	})
}

func (m *mergeModel) drawDelta(t *rapid.T, round int) pagecache.Fragment {
	keys := rapid.SliceOfNDistinct(genKey(), 1, 12, rapid.ID[string]).Draw(t, "keys")
	slices.Sort(keys)
	var changes []change
	for i, k := range keys {
		v := modelVersion{value: fmt.Sprint(round, i, rapid.StringN(0, 40, -1).Draw(t, "value")), stamp: m.clock}
		c := change{key: []byte(k), value: []byte(v.value)}
		if rapid.IntRange(0, 2).Draw(t, "dead") == 0 {
			v = modelVersion{dead: true, stamp: m.clock}
			c = change{key: []byte(k), flags: entryTombstone}
		}
		changes = append(changes, c)
		m.history[k] = append(m.history[k], v)
	}
	if len(changes) == 1 {
		c := changes[0]
		return pagecache.Fragment{Data: appendOne(nil, kindLeafOne, c.flags, c.key, c.value), Stamp: m.clock}
	}
	return pagecache.Fragment{Data: appendRun(nil, kindLeafRun, changes), Stamp: m.clock}
}

// checkVisible checks the private node that an iterator makes.
func (m *mergeModel) checkVisible(t *rapid.T) {
	for _, moment := range append(slices.Clone(m.open), m.clock) {
		mg := newMerger()
		out, err := mg.merge(nil, m.n, nil, rule{visible: true, at: moment})
		mg.release()
		require.NoError(t, err)
		v := node(out)
		require.NoError(t, v.validate())
		require.False(t, v.versioned())
		live := 0
		for key := range m.history {
			want, ok := m.at(key, moment)
			i, found := v.search([]byte(key))
			require.Equal(t, ok, found)
			if ok {
				live++
				require.Equal(t, want, string(v.entry(i).value))
			}
		}
		require.Equal(t, live, v.count())
	}
}

// checkRange cuts the node where a split might and checks that nothing changes.
func (m *mergeModel) checkRange(t *rapid.T) {
	if m.n.count() == 0 {
		return
	}
	from := rapid.IntRange(0, m.n.count()-1).Draw(t, "from")
	for from > 0 && m.n.entryFlags(from)&entryOlder != 0 {
		from--
	}
	to := m.n.count()
	part := node(appendRange(nil, m.n, from, to, m.n.meta(), rangePrefix(m.n, from, to)))
	require.NoError(t, part.validate())
	for i := from; i < to; i++ {
		require.Equal(t, m.n.appendKey(nil, i), part.appendKey(nil, i-from))
		require.Equal(t, m.n.entry(i).value, part.entry(i-from).value)
		require.Equal(t, m.n.entry(i).stamp, part.entry(i-from).stamp)
	}
}

func TestMergeInner(t *testing.T) {
	pid := func(p PID) []byte { return le.AppendUint64(nil, uint64(p)) }
	base := appendInner(nil, meta{kind: kindInner, level: 1, last: true}, []separator{{nil, 7}})
	require.NoError(t, node(base).validate())
	n := mergeInto(t, base, rule{moments: []uint64{1}, keepAll: true},
		pagecache.Fragment{Data: appendOne(nil, kindInnerOne, 0, []byte("m"), pid(9)), Stamp: 5},
		pagecache.Fragment{Data: appendOne(nil, kindInnerOne, 0, []byte("m"), pid(9)), Stamp: 6},
		pagecache.Fragment{Data: appendRun(nil, kindInnerRun, []change{{key: []byte("a"), value: pid(3)}, {key: []byte("mm"), value: pid(4)}}), Stamp: 6})
	require.Equal(t, 4, n.count())
	for _, c := range []struct {
		key    string
		strict bool
		want   PID
	}{{"", false, 7}, {"a", false, 3}, {"a", true, 7}, {"m", false, 9}, {"mm", true, 9}, {"mm", false, 4}, {"z", false, 4}} {
		require.Equal(t, c.want, n.child(n.floor([]byte(c.key), c.strict)), "%q", c.key)
	}
}

// A node beyond 64 KiB has wide offsets, and can become narrow again.
func TestWide(t *testing.T) {
	big := bytes.Repeat([]byte("v"), 30000)
	n := leafOf(t, "a", string(big), "b", string(big), "c", string(big), "d", "small")
	require.NotZero(t, n.flags()&nodeWide)
	n = mergeInto(t, n, rule{}, pagecache.Fragment{Data: appendOne(nil, kindLeafOne, 0, []byte("b"), []byte("x")), Stamp: 3})
	require.Zero(t, n.flags()&nodeWide)
	i, ok := n.search([]byte("d"))
	require.True(t, ok)
	require.Equal(t, "small", string(n.entry(i).value))
}

func FuzzDecodeNode(f *testing.F) {
	f.Add([]byte(leafOf(f, "a", "1", "b", "2")))
	f.Add([]byte(appendInner(nil, meta{kind: kindInner, level: 1, last: true}, []separator{{nil, 7}, {[]byte("m"), 8}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := node(b)
		if n.validate() != nil {
			_, _ = asNode(b)
			return
		}
		_ = n.String()
		for i := range n.count() {
			key := n.appendKey(nil, i)
			at, equal := n.search(key)
			if !equal || at > i {
				t.Fatalf("entry %d is not found", i)
			}
		}
		m := newMerger()
		defer m.release()
		if out, err := m.merge(nil, n, nil, rule{}); err != nil || node(out).validate() != nil {
			t.Fatalf("merge: %v, %v", err, node(out).validate())
		}
	})
}

func FuzzDecodeDelta(f *testing.F) {
	f.Add(appendOne(nil, kindLeafOne, 0, []byte("key"), []byte("value")))
	f.Add(appendRun(nil, kindLeafRun, []change{{key: []byte("a")}, {key: []byte("b"), value: []byte("x")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := asDelta(b)
		if err != nil {
			return
		}
		valid := d.validate() == nil
		for i := range d.count() {
			if c, ok := d.at(i); ok && valid {
				if got, found, ok := d.find(c.key); !found || !ok || !bytes.Equal(got.value, c.value) {
					t.Fatalf("change %d is not found", i)
				}
			} else if valid {
				t.Fatal("valid delta has a malformed change")
			}
		}
		_, _, _ = d.find([]byte("key"))
		m := newMerger()
		defer m.release()
		out, err := m.merge(nil, emptyLeaf(), []pagecache.Fragment{{Data: b, Stamp: 1}}, rule{})
		if valid && !d.isInner() && (err != nil || node(out).validate() != nil) {
			t.Fatalf("merge: %v, %v", err, node(out).validate())
		}
	})
}

func FuzzDecodeChunks(f *testing.F) {
	f.Add(appendChunks(nil, 300, 128, []chunk{{7, 1}, {8, 3}, {2, 1 << 40}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := readChunks(b)
		if !ok || !validChunks(b) {
			return
		}
		total, part := r.total, r.part
		var chunks []chunk
		for len(r.rest) > 0 {
			c, _ := r.next()
			chunks = append(chunks, c)
		}
		r, ok = readChunks(appendChunks(nil, total, part, chunks))
		for i := range chunks {
			if c, ok := r.next(); !ok || c != chunks[i] {
				t.Fatalf("chunk %d: %v, want %v", i, c, chunks[i])
			}
		}
		if !ok || r.total != total || r.part != part || len(r.rest) > 0 {
			t.Fatal("does not survive encoding")
		}
	})
}

// benchLeaf is a leaf of about 8 KiB: 16-byte keys, 100-byte values.
func benchLeaf(b testing.TB) (node, [][]byte) {
	var keys [][]byte
	var changes []change
	for i := range 64 {
		k := fmt.Appendf(nil, "user%012d", i*7919)
		keys = append(keys, k)
		changes = append(changes, change{key: k, value: bytes.Repeat([]byte("v"), 100)})
	}
	return mergeInto(b, emptyLeaf(), rule{}, pagecache.Fragment{Data: appendRun(nil, kindLeafRun, changes), Stamp: 1}), keys
}

func BenchmarkSearch(b *testing.B) {
	n, keys := benchLeaf(b)
	order := rand.Perm(len(keys))
	i := 0
	for b.Loop() {
		if _, ok := n.search(keys[order[i&63]]); !ok {
			b.Fatal("not found")
		}
		i++
	}
}

func BenchmarkMerge(b *testing.B) {
	n, keys := benchLeaf(b)
	for _, count := range []int{1, 8, 24} {
		b.Run(fmt.Sprintf("deltas=%d", count), func(b *testing.B) {
			var deltas []pagecache.Fragment
			for i := range count {
				key := keys[i*37%64]
				deltas = append(deltas, pagecache.Fragment{Data: appendOne(nil, kindLeafOne, 0, key, bytes.Repeat([]byte("w"), 100)), Stamp: 2})
			}
			var dst []byte
			m := new(merger)
			b.SetBytes(int64(len(n)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = m.merge(dst[:0], n, deltas, rule{})
			}
		})
	}
}
