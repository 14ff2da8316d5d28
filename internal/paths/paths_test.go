package paths

import (
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/stretchr/testify/require"
)

func TestEveryPathHasOneName(t *testing.T) {
	seen := map[string]bool{}
	for p := Path(0); p < numPaths; p++ {
		require.NotEmpty(t, p.String())
		require.False(t, seen[p.String()], p.String())
		seen[p.String()] = true
	}
	require.Equal(t, "Path(?)", numPaths.String())
}

func TestHitCountsInDebugBuildsOnly(t *testing.T) {
	Reset()
	Hit(SplitLeaf)
	Hit(SplitLeaf)
	if !invariant.Debug {
		require.Zero(t, Counts()["SplitLeaf"])
		require.Nil(t, Missing())
		return
	}
	require.EqualValues(t, 2, Counts()["SplitLeaf"])
	require.NotContains(t, Missing(), "SplitLeaf")
	require.Contains(t, Missing(), "Evict")
	Reset()
	require.Len(t, Missing(), int(numPaths))
}
