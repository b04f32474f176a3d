// Package au is the registry of archival units: what the operator configured (au.txt), bound
// to its plugin and to its place in the store, with its state.
//
//	Entry      one AU of the configuration: plugin, parameters, disk    titledb.md 3
//	Unit       that AU alive: plugin.AU, store.Unit, State, locks
//	State      times and results of crawls and polls, #au_state.xml     repository.md 8.1
//	Registry   all units, and those of the plugin registries            plugin-packaging.md 4
//
// A unit whose plugin is missing, does not fit or was switched off by the operator is known
// all the same; [Unit.Problem] says why it does nothing. Its content stays where it is, and
// when its plugin appears ([Registry.SetPlugins]) it starts. When its plugin is replaced it is
// bound anew and [Unit.Changed] tells whoever works on it (plugin-packaging.md 5).
//
// No unit is hashed while it is crawled: a crawl excludes hashes and other crawls, hashes go
// side by side. Who waits is served in order of arrival, so that neither a chain of polls nor
// the next crawl can keep the other out for ever; what comes after a waiting hash waits behind
// it, even if it is a crawl that could begin at once.
//
// Registry and Unit are safe for concurrent use.
package au
