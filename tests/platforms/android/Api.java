import java.io.File;
import java.io.FileInputStream;
import java.io.PrintStream;
import java.util.List;
import java.util.Set;
import org.codehaus.mojo.animal_sniffer.SignatureChecker;
import org.codehaus.mojo.animal_sniffer.logging.PrintWriterLogger;

/** Names what classes use that the oldest Android does not have: SIGNATURES CLASSES... */
public class Api {
    public static void main(String[] arguments) throws Exception {
        Set<String> ours = Set.of("kotlin.*", "ai.onnxruntime.*", "edge.model.*");
        PrintWriterLogger log = new PrintWriterLogger(new PrintStream(System.out, true));
        try (FileInputStream signatures = new FileInputStream(arguments[0])) {
            SignatureChecker checker = new SignatureChecker(signatures, ours, log);
            checker.setSourcePath(List.of());
            for (int i = 1; i < arguments.length; i++) {
                checker.process(new File(arguments[i]));
            }
            System.out.flush();
            System.out.println(checker.isSignatureBroken() ? "broken" : "fine");
        }
    }
}
