import Foundation

/// A bundle: `manifest.json` and the files it names, verified when it was opened.
public struct EdgeBundle: Sendable {
    public let folder: URL
    public let manifest: Manifest

    /// The most bytes of a `manifest.json`.
    private static let most = 64 << 20

    /// Open a bundle and check all of it: manifest, names, sizes and hashes.
    ///
    /// - Parameter folder: The folder that `edgekit convert` wrote.
    /// - Throws: `EdgeKitError.bundle`: not there, damaged, altered or too new. `CancellationError`.
    public init(opening folder: URL) throws {
        let place = folder.appendingPathComponent(Manifest.fileName)
        guard isFile(place) else {
            throw refused(.noManifest, folder, "no bundle there (no \(Manifest.fileName)); give the folder that edgekit convert wrote")
        }
        let data = try EdgeBundle.bytes(place)
        if data.count > EdgeBundle.most {
            throw refused(.unreadable, folder, "a manifest of \(data.count) bytes, and none has more than \(EdgeBundle.most); do not use this bundle")
        }
        let manifest = try ManifestFile.decode(Array(data), origin: place.path)
        self.folder = folder
        self.manifest = manifest
        var seen: Set<[UInt8]> = []
        for file in manifest.files {
            try Task.checkCancellation()
            try checkName(file.path, &seen)
            try check(file)
        }
        for graph in manifest.graphs {
            for path in graph.files where !lists(path) {
                throw refused(.unguarded, folder, "graph '\(graph.name)' uses '\(path)', which the manifest does not list; do not use this bundle")
            }
        }
    }

    /// SHA-256 of the manifest, which names the hashes of all files: which bundle this is.
    public var digest: String { manifest.digest }

    /// Where a file of the bundle lies.
    public func url(of path: String) -> URL { folder.appendingPathComponent(path) }

    package func lists(_ path: String) -> Bool {
        manifest.files.contains { $0.path.utf8.elementsEqual(path.utf8) }
    }

    package func read(_ path: String) throws -> [UInt8] { Array(try EdgeBundle.bytes(url(of: path))) }

    private static func bytes(_ place: URL) throws -> Data {
        do {
            return try Data(contentsOf: place, options: .mappedIfSafe)
        } catch {
            throw EdgeKitError.bundle(.unreadable, "\(place.path): cannot be read: \(error.localizedDescription)")
        }
    }

    /// Refuse a file name that leaves the bundle, or that stands there twice.
    private func checkName(_ path: String, _ seen: inout Set<[UInt8]>) throws {
        let parts = path.utf8.split(separator: UInt8(ascii: "/")).map(Array.init).filter { $0 != Array(".".utf8) }
        let forbidden = path.utf8.contains { $0 == UInt8(ascii: "\\") || $0 == UInt8(ascii: ":") || $0 == 0 }
        if path.hasPrefix("/") || parts.isEmpty || parts.contains(Array("..".utf8)) || forbidden || leadsOutside(path) {
            throw refused(.unsafePath, folder, "the file name '\(path)' leaves the bundle; do not use this bundle")
        }
        if !seen.insert(Array(parts.joined(separator: [UInt8(ascii: "/")]))).inserted {
            throw refused(.namedTwice, folder, "the manifest names '\(path)' more than once; do not use this bundle")
        }
    }

    private func leadsOutside(_ path: String) -> Bool {
        let root = folder.resolvingSymlinksInPath().standardizedFileURL.pathComponents
        let place = url(of: path).resolvingSymlinksInPath().standardizedFileURL.pathComponents
        return place.count <= root.count || Array(place.prefix(root.count)) != root
    }

    private func check(_ file: Manifest.File) throws {
        let place = url(of: file.path)
        guard isFile(place) else { throw refused(.missingFile, place, "missing from the bundle; copy the bundle again") }
        let data = try EdgeBundle.bytes(place)
        if data.count != file.bytes {
            throw refused(.wrongSize, place, "\(data.count) bytes, the manifest says \(file.bytes); truncated or replaced, copy it again")
        }
        if data.withUnsafeBytes({ sha256($0) }) != file.sha256 {
            throw refused(.hashDiffers, place, "its content is not what was written (hash differs); copy the bundle again")
        }
        if file.path.lowercased().hasSuffix(".onnx") { try refuseUnlisted(file.path, data) }
    }

    /// Refuse an ONNX file that has an engine read what the manifest does not list.
    private func refuseUnlisted(_ path: String, _ data: Data) throws {
        let others: Set<String>
        do {
            others = try data.withUnsafeBytes { try ONNXFile.named(in: $0) }
        } catch let error as ONNXFile.Broken {
            throw refused(.invalid, url(of: path), "not a whole ONNX file (\(error.what)); convert the model again")
        }
        let inside = path.split(separator: "/").dropLast().map { $0 + "/" }.joined()
        for other in others where !lists(inside + other) {
            throw refused(.unguarded, url(of: path), "keeps weights in '\(other)', which the manifest does not list; do not use this bundle")
        }
    }
}

private func isFile(_ place: URL) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: place.path, isDirectory: &isFolder) && !isFolder.boolValue
}

private func refused(_ problem: BundleProblem, _ place: URL, _ what: String) -> EdgeKitError {
    .bundle(problem, "\(place.path): \(what)")
}
