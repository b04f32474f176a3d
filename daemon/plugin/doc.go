// Package plugin knows how one kind of content is collected and compared: the plugin
// definitions of a LOCKSS network, and the signed archives in which they travel.
//
// Words: a definition is an XML map of keys; its templates hold gaps for parameters. A
// definition bound to parameters is an AU: everything evaluated, nothing left to look up.
//
//	ParseDefinition   XML, with ancestors     → *Definition   plugins.md 1-4
//	Definition.Bind   parameters              → *AU           plugins.md 4.4-8, 10
//	RegistryAU        address of a registry   → *AU           plugin-packaging.md 4.2
//	OpenJar           signed archive, Trust   → *Jar          plugin-packaging.md 1-2
//	PackJar, SignJar  sources, key pair       → archive       plugin-packaging.md 6
//
// Definitions of the classic node may name Java classes, which this node does not run. Such
// a definition loads, lists them with their consequence (Unsupported), and MayCollect or
// MayVote give an error where a missing function would change bytes, URLs or hashes
// (plugins.md 12.3). A function is never left out silently.
//
// Patterns are Perl 5 in the dialect of the classic node, run by package regexp in linear
// time. A pattern that needs backtracking is an error that names the pattern.
//
// Definition, AU and Jar are immutable and safe for concurrent use.
package plugin
