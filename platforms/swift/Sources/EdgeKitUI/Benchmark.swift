import EdgeKit
import Foundation

#if canImport(Glibc)
import Glibc
#endif

/// What is known of the device that a benchmark ran on.
public struct Device: Sendable, Hashable {
    /// As the maker counts it: `iPhone17,1`.
    public var model: String
    /// `iOS 18.5`.
    public var system: String
    public var cores: Int
    /// Bytes.
    public var memory: Int

    public init(model: String, system: String, cores: Int, memory: Int) {
        (self.model, self.system, self.cores, self.memory) = (model, system, cores, memory)
    }

    public static var current: Device {
        var names = utsname()
        uname(&names)
        let machine = withUnsafeBytes(of: &names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let info = ProcessInfo.processInfo
        let version = info.operatingSystemVersion
        #if os(iOS)
        let name = "iOS"
        #elseif os(macOS)
        let name = "macOS"
        #else
        let name = "Linux"
        #endif
        return Device(
            model: machine, system: "\(name) \(version.majorVersion).\(version.minorVersion)", cores: info.activeProcessorCount,
            memory: Int(info.physicalMemory))
    }

    /// `nominal`, `fair`, `serious` or `critical`; `unknown` where the system does not say.
    public static var thermalState: String {
        #if canImport(Darwin)
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: "nominal"
        case .fair: "fair"
        case .serious: "serious"
        case .critical: "critical"
        @unknown default: "unknown"
        }
        #else
        "unknown"
        #endif
    }
}

/// All samples of a benchmark; `edgekit profile import` finds where the warm-up ends and sums them up.
public struct Benchmark: Sendable, Codable, Hashable {
    public private(set) var schema = 1
    public private(set) var kind = "edgekit app benchmark"
    /// 32 hexadecimal digits.
    public let id: String
    /// UTC, ISO 8601.
    public let time: String
    public let edgekit: String
    public private(set) var platform = "swift"
    public let engine: String
    /// What the engine could use: `cpu and neural engine`.
    public let device: String
    public let model: String
    public let system: String
    public let cores: Int
    public let memory: Int
    /// Of the device, before and after.
    public let thermal: [String]
    /// Width and height of the frame that was looked at.
    public let frame: [Int]
    public let bundle: Subject
    public let rounds: [Round]

    /// The bundle that was measured.
    public struct Subject: Sendable, Codable, Hashable {
        public let name: String
        public let digest: String
        public let target: String
        public let precision: String
        public let engine: String
        public let task: String
        /// Height and width of the input.
        public let size: [Int]
        public let bytes: Int
        public let proof: String?

        init(_ manifest: Manifest) {
            (name, digest, target, precision) = (manifest.name, manifest.digest, manifest.target, manifest.precision)
            (engine, task, proof) = (manifest.engine, manifest.contract.task, manifest.evidence?.word)
            size = [manifest.contract.image.height, manifest.contract.image.width]
            bytes = manifest.files.filter { !$0.path.hasPrefix("golden/") }.reduce(0) { $0 + $1.bytes }
        }
    }

    /// The bundle opened anew, its first call, and calls in order, all in milliseconds.
    public struct Round: Sendable, Codable, Hashable {
        public var open = 0.0
        public var first = 0.0
        public var total: [Double] = []
        public var pre: [Double] = []
        public var inference: [Double] = []
        public var post: [Double] = []
    }

    /// How long each round calls, and how often at least and at most.
    public struct Length: Sendable {
        public var rounds = 3
        public var seconds = 1.5
        public var calls = 10...400

        public init() {}
    }

    /// The record as a file for `edgekit profile import RECORD.json`.
    public var json: Data {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            return try encoder.encode(self)
        }
    }

    /// Time a bundle on one frame. Each round opens it anew and closes it; no other model should be open meanwhile.
    ///
    /// - Parameters:
    ///   - tell: Is given the number of each round as it begins, from 1.
    ///   - open: Opens the bundle as the app does.
    /// - Throws: What opening and running throw. `CancellationError`.
    public static func run(
        _ frame: Frame, on machine: Device = .current, length: Length = Length(), tell: @Sendable (Int) async -> Void = { _ in },
        open: @Sendable () async throws -> EdgeModel
    ) async throws -> Benchmark {
        let before = Device.thermalState
        var rounds: [Round] = []
        var known: (manifest: Manifest, placement: Placement)?
        for number in 1...length.rounds {
            await tell(number)
            let clock = ContinuousClock()
            let begun = clock.now
            let model = try await open()
            let opened = clock.now
            do {
                rounds.append(try await round(model, frame, length, opened: opened, took: milliseconds(opened - begun)))
            } catch {
                await model.close()
                throw error
            }
            known = (model.manifest, model.placement)
            await model.close()
        }
        let (manifest, placement) = known!
        let format = ISO8601DateFormatter()
        format.formatOptions = [.withFullDate, .withTime, .withColonSeparatorInTime, .withDashSeparatorInDate]
        return Benchmark(
            id: (0..<16).map { _ in String(format: "%02x", Int.random(in: 0...255)) }.joined(), time: format.string(from: Date()) + "+00:00",
            edgekit: libraryVersion, engine: placement.engine, device: placement.unit, model: machine.model, system: machine.system, cores: machine.cores,
            memory: machine.memory, thermal: [before, Device.thermalState], frame: [frame.width, frame.height], bundle: Subject(manifest), rounds: rounds)
    }

    private static func round(
        _ model: EdgeModel, _ frame: Frame, _ length: Length, opened: ContinuousClock.Instant, took: Double
    ) async throws -> Round {
        let clock = ContinuousClock()
        var found = Round(open: took)
        _ = try await model.run(frame)
        let first = clock.now
        found.first = milliseconds(first - opened)
        let end = first + .seconds(length.seconds)
        while (clock.now < end && found.total.count < length.calls.upperBound) || found.total.count < length.calls.lowerBound {
            let begun = clock.now
            let timings = try await model.run(frame).timings
            found.total.append(milliseconds(clock.now - begun))
            found.pre.append(timings.pre)
            found.inference.append(timings.inference)
            found.post.append(timings.post)
        }
        return found
    }
}
