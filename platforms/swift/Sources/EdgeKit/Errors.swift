import Foundation

/// What can go wrong. Each case has a sentence that says what was wrong, with the value, and what to do about it.
///
/// Work that is cancelled throws Swift's own `CancellationError`.
public enum EdgeKitError: Error, Sendable, Hashable {
    /// The call itself is wrong: an unknown name, a value out of range.
    case usage(String)
    /// The model runs already; await its result, or use `results(of:)`, which drops frames and counts them.
    case busy(String)
    /// The model was closed.
    case closed(String)
    /// A contract is invalid, incomplete, or does not fit its graph.
    case contract(String)
    /// An image, a mask or a frame cannot be read.
    case input(String)
    /// An engine is missing, cannot open its file, or gave something unusable.
    case engine(String)
    /// A bundle is damaged, altered or too new.
    case bundle(BundleProblem, String)

    /// The sentence.
    public var message: String {
        switch self {
        case .usage(let text), .busy(let text), .closed(let text), .contract(let text), .input(let text), .engine(let text):
            text
        case .bundle(_, let text): text
        }
    }
}

extension EdgeKitError: CustomStringConvertible, LocalizedError {
    public var description: String { message }
    /// What `localizedDescription` says.
    public var errorDescription: String? { message }
}

/// Why a bundle was refused.
public enum BundleProblem: String, Sendable, Hashable, CaseIterable {
    case noManifest = "no-manifest"
    case notJSON = "not-json"
    case newerSchema = "newer-schema"
    case invalid
    case badDigest = "bad-digest"
    case unsafePath = "unsafe-path"
    case namedTwice = "named-twice"
    case missingFile = "missing-file"
    case wrongSize = "wrong-size"
    case hashDiffers = "hash-differs"
    case unguarded
    case unreadable
}

/// `'x' is not one of: a, b`: what every refusal of a name says.
package func choices(_ given: String, _ valid: some Sequence<String>) -> String {
    "'\(given)' is not one of: \(valid.joined(separator: ", "))"
}
