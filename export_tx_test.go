package db

import "context"

import "github.com/pulkdb/db/tree"

// Folding returns a copy of o whose pages are folded at so many deltas.
func (o Options) Folding(deltas int) *Options {
	return o.tuned(func(t *tree.Options) { t.Cache.MergeDeltas = deltas })
}

// TreeMetrics returns what package tree counts.
func (d *DB) TreeMetrics() tree.Metrics { return d.tree.Metrics() }

// CheckTree looks at the whole store.
func (d *DB) CheckTree() error { return d.Verify(context.Background()) }
