// Package store keeps archival units on disk, in the layout of LOCKSS 1.x (repository.md).
//
//	root     one disk, e.g. /cache0/gamma
//	unit     a directory <root>/cache/a, b, … aa, …; whose it is says its #au_id_file
//	node     a directory below a unit that stands for a URL (layout.go); may have child nodes
//	version  bytes and properties; the newest is current, older ones have numbers
//
//	press.example/http/v1/logo.png/       the node http://press.example/v1/logo.png
//	    #content/current current.props    the current version
//	             2 2.props 1 1.props      older ones, highest number most recent
//	             inactive inactive.props  instead of current*: kept, neither served nor polled
//	             temp temp.props          being written
//
// The files are the truth. [Writer.Seal] returns when a version is durable: bytes and
// properties synced, renamed into place, the directory synced. A crash in between leaves a
// state that the next access to the node finishes or takes back (recover.go). Bytes that were
// acknowledged are never deleted or overwritten; a new version moves them to their number.
// Nothing below a unit is reached through a symbolic link.
//
// The index, <root>/index.db, answers what would otherwise need a walk: totals, listings,
// which units hold a URL. It may be deleted at any time. A unit's part is built anew from the
// tree when it is missing, of another schema, damaged, or stale. Stale means:
//
//   - the last run ended without [Store.Close] and had stored into the unit since the last
//     [Store.Checkpoint];
//   - the unit lies in another directory than before;
//   - something was added, removed or renamed directly in <unit>/<host> or in
//     <unit>/<host>/<scheme>;
//   - after a clean end also: a file directly in the unit's directory was replaced, as a 1.x
//     daemon does with its state files after each crawl and poll.
//
// Not noticed: changes by others deeper in the tree that touch none of these, such as a body
// damaged, deleted or replaced by hand. They do not matter to reading, walking and hashing,
// which never look at the index; [Store.Rebuild] brings the index up to date. When the disk is
// too full to open its index, the index is kept in memory.
//
// A Store and its Units are safe for concurrent use; a [Writer] belongs to one goroutine. One
// process holds a root at a time, by a lock on <root>/index.lock.
package store
